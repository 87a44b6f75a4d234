# Prints what Mail::DKIM makes of the signatures, or the ARC chain, of files.
#   perl dkim.pl <dns port> dkim|arc <file...>
use strict;
use warnings;
use Mail::DKIM::ARC::Verifier;
use Mail::DKIM::DNS;
use Mail::DKIM::Verifier;
use Net::DNS::Resolver;

my ($port, $what, @files) = @ARGV;
Mail::DKIM::DNS::resolver(Net::DNS::Resolver->new(
	nameservers => ['127.0.0.1'], port => $port, recurse => 1, udp_timeout => 5));
for my $file (@files) {
	my $v = $what eq 'arc' ? Mail::DKIM::ARC::Verifier->new : Mail::DKIM::Verifier->new;
	open my $in, '<:raw', $file or die "$file: $!";
	local $/;
	$v->PRINT(scalar <$in>);
	$v->CLOSE;
	if ($what eq 'arc') {
		print "$file ", $v->result_detail, "\n";
		next;
	}
	print "$file ", $_->algorithm, ' ', $_->selector, ' ', $_->result, "\n" for $v->signatures;
}
