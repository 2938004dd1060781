# Both sides of a verdict for Perl: `perl driver.pl program|tests ENTRY`; see driver.js for the pipes and frames.
package Stilts;
use strict;
use warnings;
use JSON::PP ();

my ($side, $entry) = splice(@ARGV, 0, 2);
my $json = JSON::PP->new->ascii->allow_nonref->canonical;
my $LIMIT = 4 << 20;
my $DEEP = 60;
my ($calls, $replies, $failure);
my $called = 0;
our $started = 0;

sub read_exactly {
    my ($stream, $size) = @_;
    my $text = "";
    while (length($text) < $size) {
        my $count = sysread($stream, $text, $size - length($text), length($text));
        die "the program ended before it answered\n" unless $count;
    }
    return $text;
}

sub read_frame {
    my ($stream) = @_;
    my $size = unpack("V", read_exactly($stream, 4));
    die "answer too long\n" if $size > $LIMIT;
    return $json->decode(read_exactly($stream, $size));
}

sub write_frame {
    my ($stream, $value) = @_;
    my $text = $json->encode($value);
    my $left = pack("V", length($text)) . $text;
    while (length($left)) {
        my $count = syswrite($stream, $left);
        die "the program ended before it was called\n" unless $count;
        substr($left, 0, $count) = "";
    }
}

# Perl's scalars are strings and numbers at once, and its tests compare them as strings: so they travel.
sub encode {
    my ($value, $depth) = @_;
    die "value nested too deep\n" if $depth > $DEEP;
    my $kind = ref($value);
    return defined($value) ? "$value" : undef if $kind eq "";
    return [map { encode($_, $depth + 1) } @$value] if $kind eq "ARRAY";
    return {map { ($_ => encode($value->{$_}, $depth + 1)) } keys %$value} if $kind eq "HASH";
    die "value of type $kind\n";
}

# Arguments keep being numbers where the tests wrote numbers.
sub plain {
    my ($value, $depth) = @_;
    my $kind = ref($value);
    die "value of type $kind\n" if $depth > $DEEP || $kind !~ /^(?:|ARRAY|HASH)$/;
    return [map { plain($_, $depth + 1) } @$value] if $kind eq "ARRAY";
    return {map { ($_ => plain($value->{$_}, $depth + 1)) } keys %$value} if $kind eq "HASH";
    return $value;
}

sub short {
    my ($line) = split(/\n/, $_[0] // "");
    return substr($line // "", 0, 200);
}

my $BEGINNING = "\$Stilts::started = 1;\n#line 1 \"program.pl\"\n";

# The program's file behind a first statement of ours: where that did not run, Perl did not take the program.
sub begun {
    my ($self, $name) = @_;
    return unless $name eq "program.pl";
    open(my $file, "<", $name) or return;
    return (\$BEGINNING, $file);
}

sub serve {
    open($calls, "<&=", 3);
    open($replies, ">&=", 4);
    my $done = eval {
        package main;
        no strict;
        local @INC = (\&Stilts::begun, @INC);
        do "program.pl";
        die "syntax error: $@" if $@ && !$Stilts::started && $@ !~ /^Can't locate /;
        die $@ if $@;
        die "the program does not define $entry\n" unless defined &{"main::$entry"};
        1;
    };
    if (!$done) {
        write_frame($replies, {raised => short($@)});
        exit 0;
    }
    write_frame($replies, {loaded => 1});
    while (1) {
        my $given = read_frame($calls);
        my ($value, $answer);
        my $returned = eval {
            no strict "refs";
            $value = &{"main::$entry"}(@$given);
            1;
        };
        if (!$returned) {
            $answer = {raised => short("$@")};
        } else {
            my $coded = eval { $answer = {value => encode($value, 0)}; 1 };
            $answer = {wrong => short($@)} unless $coded;
        }
        write_frame($replies, $answer);
    }
}

sub fail_with {
    my ($verdict, $reason) = @_;
    $failure = {verdict => $verdict, reason => short($reason)} unless $failure;
    die "$reason\n";
}

sub answered {
    my $answer = eval { read_frame($replies) };
    fail_with("ended", $@) unless defined $answer;
    fail_with("wrong-type", "answer is no message") unless ref($answer) eq "HASH" && keys(%$answer) == 1;
    my ($kind) = keys %$answer;
    my $content = $answer->{$kind};
    fail_with("error", $content) if $kind eq "raised";
    fail_with("wrong-type", $content) if $kind eq "wrong";
    return undef if $kind eq "loaded";
    fail_with("wrong-type", "answer is no message") unless $kind eq "value";
    my $value = eval { plain($content, 0) };
    fail_with("wrong-type", $@) if $@;
    return $value;
}

sub call {
    my @given = @_;
    $called++;
    # As deep again as an answer: what the program returned can be handed back, and is no object of the tests.
    my $request = eval { [map { plain($_, -$DEEP) } @given] };
    fail_with("objects", "an argument is no plain value") unless $request;
    my $sent = eval { write_frame($calls, $request); 1 };
    fail_with("ended", $@) unless $sent;
    return answered();
}

# Whether the tests name what the program alone defines. An answer in a message must not choose the weak way.
sub needs_objects {
    my ($problem) = @_;
    my ($function) = $problem =~ /^Undefined subroutine &main::(\w+) called at /;
    my ($class) = $problem =~ /^Can't locate object method "\w+" via package "(\w+)" /;
    my $name = $function // $class // return 0;
    open(my $file, "<", "tests.pl") or return 0;
    my $tests = join("", <$file>);
    no strict "refs";
    return $tests =~ /\b$name\b/ && !defined &{"main::$name"};
}

sub test {
    $SIG{PIPE} = "IGNORE";
    open($calls, ">&=", 3);
    open($replies, "<&=", 4);
    open(my $verdict, ">&=", 5);
    my $outcome = {verdict => "passed", reason => ""};
    my $done = eval {
        answered();
        no strict "refs";
        *{"main::$entry"} = \&call;
        package main;
        no strict;
        no warnings;
        do "./tests.pl" or ($@ and die $@);
        die $@ if $@;
        1;
    };
    if (!$done) {
        my $problem = "$@";
        $outcome = {verdict => (needs_objects($problem) ? "objects" : "failed"), reason => short($problem)};
        # Of the tests alone: a program's own failures stand in $failure.
        if ($problem =~ /^Can't locate (\S+)\.pm in \@INC/) {
            my $library = $1 =~ s{/}{::}gr;
            $outcome = {verdict => "withheld", reason => "the tests need $library"};
        }
    }
    if ($outcome->{verdict} eq "passed" && !$called) {
        $outcome = {verdict => "bad-tests", reason => "the tests never call $entry"};
    }
    write_frame($verdict, $failure || $outcome);
}

$side eq "program" ? serve() : test();
