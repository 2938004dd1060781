// Both sides of a verdict for JavaScript: `node driver.js program|tests ENTRY`.
// The program answers calls (pipes 3 and 4), the tests make them and write the verdict (pipe 5). Only plain values
// cross, as JSON in frames: four bytes of length, then the text.
"use strict";
const fs = require("fs");
const vm = require("vm");
const {readSync, writeSync, readFileSync} = fs;
const {parse, stringify} = JSON;
const [side, entry] = process.argv.slice(2);
const LIMIT = 4 << 20, DEEP = 60;

class Broken extends Error {}

function read(descriptor, size) {
    const buffer = Buffer.alloc(size);
    for (let filled = 0; filled < size;) {
        const count = readSync(descriptor, buffer, filled, size - filled, null);
        if (count === 0) throw new Broken("the program ended before it answered");
        filled += count;
    }
    return buffer;
}

function readFrame(descriptor) {
    const size = read(descriptor, 4).readUInt32LE(0);
    if (size > LIMIT) throw new Broken("answer too long");
    return parse(read(descriptor, size).toString("utf8"));
}

function writeFrame(descriptor, value) {
    const text = Buffer.from(stringify(value), "utf8");
    const frame = Buffer.alloc(4 + text.length);
    frame.writeUInt32LE(text.length, 0);
    text.copy(frame, 4);
    for (let written = 0; written < frame.length;) {
        written += writeSync(descriptor, frame, written, frame.length - written);
    }
}

// Plain values only: an object of a class with a valueOf or toJSON of its own could say one thing and be another.
function encode(value, depth = 0) {
    if (depth > DEEP) throw new TypeError("value nested too deep");
    if (value === null || typeof value === "boolean" || typeof value === "string") return value;
    if (value === undefined) return {undefined: 1};
    if (typeof value === "bigint") return {bigint: value.toString()};
    if (typeof value === "number") {
        return Number.isFinite(value) && !Object.is(value, -0) ? value : {number: Object.is(value, -0) ? "-0" : String(value)};
    }
    if (typeof value !== "object") throw new TypeError("value of type " + typeof value);
    const inner = (item) => encode(item, depth + 1);
    const prototype = Object.getPrototypeOf(value);
    if (Array.isArray(value)) return Array.from(value, inner);
    if (prototype === Set.prototype) return {set: Array.from(value, inner)};
    if (prototype === Map.prototype) return {map: Array.from(value, (pair) => pair.map(inner))};
    if (prototype === Date.prototype) return {date: value.getTime()};
    if (prototype === Object.prototype || prototype === null) {
        return {object: Object.keys(value).map((key) => [key, inner(value[key])])};
    }
    throw new TypeError("value of a class");
}

function decode(value, depth = 0) {
    if (depth > DEEP + 2) throw new Broken("answer nested too deep");
    if (value === null || typeof value !== "object") return value;
    const inner = (item) => decode(item, depth + 1);
    if (Array.isArray(value)) return value.map(inner);
    const [[kind, content]] = Object.entries(value);
    if (kind === "undefined") return undefined;
    if (kind === "bigint") return BigInt(content);
    if (kind === "number") return Number(content);
    if (kind === "date") return new Date(content);
    if (kind === "set") return new Set(content.map(inner));
    if (kind === "map") return new Map(content.map((pair) => pair.map(inner)));
    if (kind === "object") return content.reduce((made, [key, item]) => {
        // defineProperty, because a key may be __proto__
        Object.defineProperty(made, key, {value: inner(item), enumerable: true, writable: true, configurable: true});
        return made;
    }, {});
    throw new Broken("answer is no value");
}

function short(text) {
    return String(text).split("\n")[0].slice(0, 200);
}

function load(file, last) {
    globalThis.require = require;
    globalThis.module = module;
    globalThis.exports = module.exports;
    const text = readFileSync(file, "utf8");
    return vm.runInThisContext(last ? text + "\n;" + last : text, {filename: file});
}

function serve() {
    let candidate;
    try {
        candidate = load("program.js", entry);
        if (typeof candidate !== "function") throw new TypeError("the program does not define " + entry);
        writeFrame(4, {loaded: true});
    } catch (problem) {
        writeFrame(4, {raised: ["Error", short(problem)]});
        process.exit(0);
    }
    for (;;) {
        const given = readFrame(3).map((item) => decode(item));
        let answer;
        try {
            const value = candidate(...given);
            try {
                answer = {value: encode(value)};
            } catch (problem) {
                answer = {wrong: short(problem.message)};
            }
        } catch (problem) {
            answer = {raised: ["Error", short(problem)]};
        }
        writeFrame(4, answer);
    }
}

function test() {
    let failure = null, called = 0;
    const fail = (verdict, reason) => {
        failure = failure || {verdict, reason: short(reason)};
        throw new Broken(reason);
    };
    const answered = () => {
        let answer;
        try {
            answer = readFrame(4);
        } catch (problem) {
            fail("ended", problem.message);
        }
        const [kind, content] = Object.entries(answer)[0];
        if (kind === "raised") fail("error", content[1]);
        if (kind === "wrong") fail("wrong-type", content);
        if (kind === "value") {
            try {
                return decode(content);
            } catch (problem) {
                fail("wrong-type", problem.message);
            }
        }
    };
    globalThis[entry] = (...given) => {
        let request;
        called += 1;
        try {
            // As deep again as an answer: what the program returned can be handed back, and is no object of the tests.
            request = given.map((item) => encode(item, -DEEP));
        } catch (problem) {
            failure = {verdict: "objects", reason: "an argument is no plain value: " + short(problem.message)};
            throw problem;
        }
        try {
            writeFrame(3, request);
        } catch (problem) {
            fail("ended", "the program ended before it was called");
        }
        return answered();
    };
    let outcome = {verdict: "passed", reason: ""};
    try {
        answered();
        load("tests.js");
    } catch (problem) {
        const missing = problem instanceof ReferenceError;
        outcome = {verdict: missing ? "objects" : "failed", reason: short(problem)};
        // Of the tests alone: a program's own failures stand in `failure`.
        const library = /^Cannot find module '([^']+)'/.exec(problem?.message ?? "");
        if (library && problem.code === "MODULE_NOT_FOUND") outcome = {verdict: "withheld", reason: "the tests need " + library[1]};
    }
    if (outcome.verdict === "passed" && called === 0) outcome = {verdict: "bad-tests", reason: "the tests never call " + entry};
    writeFrame(5, failure || outcome);
}

if (side === "program") serve();
else test();
