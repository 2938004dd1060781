# Both sides of a verdict for Ruby: `ruby driver.rb program|tests ENTRY`; see driver.js for the pipes and frames.
require "json"
require "set"

module Stilts
  LIMIT = 4 << 20
  DEEP = 60

  class Broken < Exception; end

  class << self
    attr_accessor :failure, :called, :calls, :replies

    def read(stream, size)
      text = stream.read(size)
      raise Broken, "the program ended before it answered" if text.nil? || text.bytesize < size
      text
    end

    def read_frame(stream)
      size = read(stream, 4).unpack1("V")
      raise Broken, "answer too long" if size > LIMIT
      JSON.parse(read(stream, size), max_nesting: 200, create_additions: false)
    end

    def write_frame(stream, value)
      text = JSON.generate(value, max_nesting: 200)
      stream.write([text.bytesize].pack("V") + text)
      stream.flush
    end

    # instance_of?, not is_a?: a subclass of Integer or String may compare as it likes.
    def encode(value, depth = 0)
      raise TypeError, "value nested too deep" if depth > DEEP
      kind = Kernel.instance_method(:class).bind_call(value)
      inner = ->(item) { encode(item, depth + 1) }
      if [NilClass, TrueClass, FalseClass, Integer].include?(kind)
        value
      elsif kind == String
        value.dup.force_encoding("UTF-8").valid_encoding? ? value.dup.force_encoding("UTF-8") : {"bytes" => [value].pack("m0")}
      elsif kind == Float
        value.finite? ? value : {"float" => value.to_s}
      elsif kind == Symbol
        {"symbol" => value.to_s}
      elsif kind == Array
        value.map(&inner)
      elsif kind == Hash
        {"hash" => value.map { |key, item| [inner.(key), inner.(item)] }}
      elsif kind == Set
        {"set" => value.map(&inner)}
      elsif kind == Range
        {"range" => [inner.(value.begin), inner.(value.end), value.exclude_end?]}
      elsif kind == Rational
        {"rational" => [value.numerator, value.denominator]}
      else
        raise TypeError, "value of type #{kind}"
      end
    end

    def decode(value)
      return value.map { |item| decode(item) } if value.is_a?(Array)
      return value unless value.is_a?(Hash)
      kind, content = value.first
      case kind
      when "bytes" then content.unpack1("m0")
      when "float" then {"Infinity" => Float::INFINITY, "-Infinity" => -Float::INFINITY}.fetch(content, Float::NAN)
      when "symbol" then content.to_sym
      when "hash" then content.to_h { |key, item| [decode(key), decode(item)] }
      when "set" then Set.new(content.map { |item| decode(item) })
      when "range" then Range.new(decode(content[0]), decode(content[1]), content[2] == true)
      when "rational" then Rational(content[0], content[1])
      else raise Broken, "answer is no value"
      end
    end

    def short(text)
      text.to_s.dup.force_encoding("UTF-8").scrub("?").lines.first.to_s.strip[0, 200]
    end

    def open(calls, replies)
      self.calls = IO.for_fd(3, calls, autoclose: false)
      self.replies = IO.for_fd(4, replies, autoclose: false)
      [self.calls, self.replies].each(&:binmode)
    end

    def serve(entry)
      open("r", "w")
      main = TOPLEVEL_BINDING.receiver
      begin
        load "./program.rb"
        raise NameError, "the program does not define #{entry}" unless main.respond_to?(entry, true)
        write_frame(replies, {"loaded" => true})
      rescue Exception => problem
        write_frame(replies, {"raised" => short("#{problem.class}: #{problem.message}")})
        exit!(0)
      end
      loop do
        given = decode(read_frame(calls))
        begin
          value = main.send(entry, *given)
          begin
            answer = {"value" => encode(value)}
            JSON.generate(answer, max_nesting: 200)
          rescue StandardError => problem
            answer = {"wrong" => short(problem.message)}
          end
        rescue Exception => problem
          answer = {"raised" => short("#{problem.class}: #{problem.message}")}
        end
        write_frame(replies, answer)
      end
    end

    def fail_with(verdict, reason)
      self.failure ||= {"verdict" => verdict, "reason" => short(reason)}
      raise Broken, reason
    end

    def answered
      begin
        answer = read_frame(replies)
      rescue Broken, JSON::ParserError => problem
        fail_with("ended", problem.message)
      end
      kind, content = answer.is_a?(Hash) ? answer.first : nil
      case kind
      when "raised" then fail_with("error", content)
      when "wrong" then fail_with("wrong-type", content)
      when "loaded" then nil
      when "value"
        begin
          decode(content)
        rescue StandardError, Broken => problem
          fail_with("wrong-type", problem.message)
        end
      else fail_with("wrong-type", "answer is no message")
      end
    end

    def call(given)
      self.called = true
      begin
        # As deep again as an answer: what the program returned can be handed back, and is no object of the tests.
        request = given.map { |item| encode(item, -DEEP) }
      rescue TypeError => problem
        fail_with("objects", "an argument is no plain value: #{problem.message}")
      end
      begin
        write_frame(calls, request)
      rescue SystemCallError
        fail_with("ended", "the program ended before it was called")
      end
      answered
    end

    # Whether the tests name what the program alone defines. That an answer has no such method is the program's doing,
    # which must not choose the weak way.
    def needs_objects?(problem)
      main = TOPLEVEL_BINDING.receiver
      [main, Object].any? { |owner| owner.equal?(problem.receiver) } && File.read("tests.rb").match?(/\b#{problem.name}\b/)
    rescue ArgumentError
      false
    end

    def test(entry)
      open("w", "r")
      outcome = {"verdict" => "passed", "reason" => ""}
      begin
        answered
        Object.define_method(entry) { |*given| Stilts.call(given) }
        load "./tests.rb"
      rescue NameError => problem
        outcome = {"verdict" => needs_objects?(problem) ? "objects" : "failed", "reason" => short(problem.message)}
      rescue LoadError => problem
        # Of the tests alone: a program's own failures stand in `failure`.
        outcome = {"verdict" => "withheld", "reason" => short("the tests need #{problem.path || problem.message}")}
      rescue SyntaxError => problem
        outcome = {"verdict" => "bad-tests", "reason" => short(problem.message)}
      rescue Exception => problem
        outcome = {"verdict" => "failed", "reason" => short(problem.message)}
      end
      if outcome["verdict"] == "passed" && !called
        outcome = {"verdict" => "bad-tests", "reason" => "the tests never call #{entry}"}
      end
      write_frame(IO.for_fd(5, "w", autoclose: false), failure || outcome)
    end
  end
end

side, entry = ARGV
ARGV.clear
side == "program" ? Stilts.serve(entry) : Stilts.test(entry)
