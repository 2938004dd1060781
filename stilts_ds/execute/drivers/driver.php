<?php
// Both sides of a verdict for PHP: `php driver.php program|tests ENTRY`; see driver.js for the pipes and frames.
error_reporting(0);
[$stilts_side, $stilts_entry] = array_slice($argv, 1);

final class StiltsBroken extends Error {}

final class Stilts
{
    private const LIMIT = 4 << 20;
    private const DEEP = 60;
    public static ?array $failure = null;
    private static int $called = 0;
    private static $calls, $replies;

    public static function open(string $calls, string $replies): void
    {
        self::$calls = fopen("php://fd/3", $calls);
        self::$replies = fopen("php://fd/4", $replies);
        stream_set_read_buffer(self::$calls, 0);
        stream_set_read_buffer(self::$replies, 0);
    }

    private static function read($stream, int $size): string
    {
        $text = "";
        while (strlen($text) < $size) {
            $chunk = fread($stream, $size - strlen($text));
            if ($chunk === false || $chunk === "") throw new StiltsBroken("the program ended before it answered");
            $text .= $chunk;
        }
        return $text;
    }

    private static function readFrame($stream)
    {
        $size = unpack("V", self::read($stream, 4))[1];
        if ($size > self::LIMIT) throw new StiltsBroken("answer too long");
        return json_decode(self::read($stream, $size), true, 512, JSON_BIGINT_AS_STRING);
    }

    public static function writeFrame($stream, $value): void
    {
        $text = json_encode($value, JSON_PRESERVE_ZERO_FRACTION, 512);
        if ($text === false) $text = '{"wrong":["value that is no JSON"]}';
        $left = pack("V", strlen($text)) . $text;
        while ($left !== "") {
            $count = fwrite($stream, $left);
            if ($count === false || $count === 0) throw new StiltsBroken("the program ended before it was called");
            $left = substr($left, $count);
        }
    }

    // Arrays are lists of key and value: JSON would not keep whether a key is a number.
    public static function encode($value, int $depth = 0)
    {
        if ($depth > self::DEEP) throw new TypeError("value nested too deep");
        if ($value === null || is_bool($value) || is_int($value)) return $value;
        if (is_float($value)) return is_finite($value) ? $value : ["float" => [strval($value)]];
        if (is_string($value)) return preg_match('//u', $value) ? $value : ["bytes" => [base64_encode($value)]];
        if ($value instanceof Generator || $value instanceof ArrayIterator) $value = iterator_to_array($value);
        if (!is_array($value)) throw new TypeError("value of type " . get_debug_type($value));
        $pairs = [];
        foreach ($value as $key => $item) $pairs[] = [self::encode($key, $depth + 1), self::encode($item, $depth + 1)];
        return ["array" => $pairs];
    }

    public static function decode($value)
    {
        if (!is_array($value)) return $value;
        $kind = array_key_first($value);
        $content = $value[$kind];
        if ($kind === "float") return ["INF" => INF, "-INF" => -INF][$content[0]] ?? NAN;
        if ($kind === "bytes") return base64_decode($content[0]);
        if ($kind !== "array") throw new StiltsBroken("answer is no value");
        $array = [];
        foreach ($content as [$key, $item]) $array[self::decode($key)] = self::decode($item);
        return $array;
    }

    // Strict: types are equal, but for int and float, which PHP turns into each other; arrays by key, in any order.
    public static function equal($x, $y): bool
    {
        if ((is_int($x) || is_float($x)) && (is_int($y) || is_float($y))) return $x == $y;
        if (!is_array($x) || !is_array($y)) return $x === $y;
        if (count($x) !== count($y)) return false;
        foreach ($x as $key => $item) {
            if (!array_key_exists($key, $y) || !self::equal($item, $y[$key])) return false;
        }
        return true;
    }

    public static function short(string $text): string
    {
        return substr(preg_replace('/[^\x20-\x7e]/', '?', explode("\n", $text)[0]), 0, 200);
    }

    public static function serve(string $entry): void
    {
        self::open("r", "w");
        try {
            include "program.php";
            if (!function_exists($entry)) throw new Error("the program does not define $entry");
            self::writeFrame(self::$replies, ["loaded" => [true]]);
        } catch (Throwable $problem) {
            self::writeFrame(self::$replies, ["raised" => [self::short($problem->getMessage())]]);
            return;
        }
        while (true) {
            $given = array_map([self::class, "decode"], self::readFrame(self::$calls));
            try {
                $value = $entry(...$given);
                try {
                    $answer = ["value" => [self::encode($value)]];
                } catch (TypeError $problem) {
                    $answer = ["wrong" => [self::short($problem->getMessage())]];
                }
            } catch (Throwable $problem) {
                $answer = ["raised" => [self::short(get_class($problem) . ": " . $problem->getMessage())]];
            }
            self::writeFrame(self::$replies, $answer);
        }
    }

    private static function fail(string $verdict, string $reason): void
    {
        self::$failure ??= ["verdict" => $verdict, "reason" => self::short($reason)];
        throw new StiltsBroken($reason);
    }

    private static function answered()
    {
        try {
            $answer = self::readFrame(self::$replies);
        } catch (StiltsBroken $problem) {
            self::fail("ended", $problem->getMessage());
        }
        if (!is_array($answer)) self::fail("wrong-type", "answer is no message");
        $kind = array_key_first($answer);
        $content = $answer[$kind][0] ?? null;
        if ($kind === "raised") self::fail("error", strval($content));
        if ($kind === "wrong") self::fail("wrong-type", strval($content));
        if ($kind === "loaded") return null;
        if ($kind !== "value") self::fail("wrong-type", "answer is no message");
        try {
            return self::decode($content);
        } catch (Throwable $problem) {
            self::fail("wrong-type", $problem->getMessage());
        }
    }

    public static function call(array $given)
    {
        self::$called += 1;
        try {
            // As deep again as an answer: what the program returned can be handed back, and is no object of the tests.
            $request = array_map(fn($item) => self::encode($item, -self::DEEP), array_values($given));
        } catch (TypeError $problem) {
            self::fail("objects", "an argument is no plain value: " . $problem->getMessage());
        }
        try {
            self::writeFrame(self::$calls, $request);
        } catch (StiltsBroken $problem) {
            self::fail("ended", $problem->getMessage());
        }
        return self::answered();
    }

    // Whether the tests name what the program alone defines. An answer in a message must not choose the weak way.
    private static function needsObjects(Throwable $problem): bool
    {
        $missing = '/^(?:Call to undefined function (\w+)\(\)|Class "(\w+)" not found)$/';
        if (get_class($problem) !== "Error" || !preg_match($missing, $problem->getMessage(), $names)) return false;
        $name = end($names);
        $called = preg_match('/\b' . $name . '\b/', file_get_contents("tests.php"));
        return $called && !function_exists($name) && !class_exists($name);
    }

    public static function test(string $entry): void
    {
        self::open("w", "r");
        $verdict = fopen("php://fd/5", "w");
        $outcome = ["verdict" => "passed", "reason" => ""];
        try {
            self::answered();
            eval("function $entry(...\$given) { return Stilts::call(\$given); }");
            include "tests.php";
        } catch (Throwable $problem) {
            $kind = self::needsObjects($problem) ? "objects" : ($problem instanceof ParseError ? "bad-tests" : "failed");
            $outcome = ["verdict" => $kind, "reason" => self::short($problem->getMessage())];
        }
        if ($outcome["verdict"] === "passed" && self::$called === 0) {
            $outcome = ["verdict" => "bad-tests", "reason" => "the tests never call $entry"];
        }
        self::writeFrame($verdict, self::$failure ?? $outcome);
    }
}

if ($stilts_side === "program") Stilts::serve($stilts_entry);
else Stilts::test($stilts_entry);
