# Signs each file with Mail::DKIM: sign.pl KEY DOMAIN SELECTOR FILE... It writes
# FILE.METHOD for each pair of canonical forms.
use strict;
use warnings;
use Mail::DKIM::Signer;
use Mail::DKIM::PrivateKey;

my ($keyfile, $domain, $selector, @files) = @ARGV;
my $key = Mail::DKIM::PrivateKey->load(File => $keyfile);
for my $file (@files) {
    open my $in, '<:raw', $file or die "$file: $!";
    my $text = do { local $/; <$in> };
    for my $method (qw(simple/simple relaxed/relaxed simple/relaxed relaxed/simple)) {
        my $dkim = Mail::DKIM::Signer->new(
            Algorithm => 'rsa-sha256', Method => $method, Domain => $domain, Selector => $selector, Key => $key);
        $dkim->PRINT($text);
        $dkim->CLOSE;
        (my $suffix = $method) =~ tr{/}{-};
        open my $out, '>:raw', "$file.$suffix" or die "$file.$suffix: $!";
        print $out $dkim->signature->as_string, "\r\n", $text;
        close $out or die;
    }
}
