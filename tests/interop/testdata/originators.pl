# Reads header blocks, one a line in base64, and prints the addresses in From as
# Mail::Address sees them.
use strict;
use warnings;
use MIME::Base64;
use Mail::Header;
use Mail::Address;

while (my $line = <STDIN>) {
    my @lines = split /(?<=\n)/, decode_base64($line) =~ s/\r\n/\n/gr;
    my $header = Mail::Header->new(\@lines, Modify => 0);
    my @all;
    for my $value ($header->get('From')) {
        $value =~ s/\n(?=[ \t])//g;
        chomp $value;
        push @all, map { $_->address } Mail::Address->parse($value);
    }
    print join(' ', grep { defined && length } @all), "\n";
}
