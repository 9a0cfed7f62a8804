// What a program finds in JavaScript beside the language, and how values leave it. The last line
// is the value of this script: a function that only the host holds. Everything it uses is captured
// here, before any program runs; a program that tampers with its own engine changes what it
// answers, not what is right, which is not in here.
((host) => {
  'use strict';
  const { stringify, parse } = JSON;
  const { isArray } = Array;
  const { getPrototypeOf, keys, defineProperty, hasOwn } = Object;
  const { isFinite, isInteger } = Number;
  const objects = Object.prototype;
  const { Error: Failure, Promise: Later, String: Text } = globalThis;
  const then = Later.prototype.then;
  const { apply } = Reflect;

  // JSON of a value, or an error where JSON would lose what the value is.
  const write = (value, depth) => {
    if (depth > 200) throw new Failure('a value nested too deeply or in itself');
    if (value === null) return 'null';
    switch (typeof value) {
      case 'boolean': return value ? 'true' : 'false';
      case 'string': return stringify(value);
      case 'number':
        if (!isFinite(value)) throw new Failure('the number ' + value);
        return value === 0 ? '0' : isInteger(value) && value < 1e21 && value > -1e21
          ? `${BigInt(value)}` : stringify(value);
      case 'bigint':
        if (value >= 1n << 64n || value < -(1n << 63n)) throw new Failure('an integer of over 64 bits');
        return `${value}`;
      case 'object': break;
      default: throw new Failure('a value of type ' + typeof value);
    }
    const prototype = getPrototypeOf(value);
    let text = '';
    if (isArray(value)) {
      for (let at = 0; at < value.length; at++) {
        text += (at ? ',' : '') + write(value[at], depth + 1);
      }
      return `[${text}]`;
    }
    if (prototype !== objects && prototype !== null) {
      let name = 'another class';
      try { name = Text(value.constructor.name); } catch { /* stays */ }
      throw new Failure('an object of ' + name);
    }
    const names = keys(value);
    for (let at = 0; at < names.length; at++) {
      text += (at ? ',' : '') + stringify(names[at]) + ':' + write(value[names[at]], depth + 1);
    }
    return `{${text}}`;
  };

  // How console.log shows a value: text as it is, the rest near to JSON.
  const show = (value) => {
    if (typeof value === 'string') return value;
    if (typeof value === 'object' && value !== null) {
      if (value instanceof Failure) return `${value.name}: ${value.message}`;
      try { return write(value, 0); } catch { /* below */ }
    }
    if (typeof value === 'bigint') return `${value}n`;
    return Text(value);
  };

  const print = (...values) => {
    let line = '';
    for (let at = 0; at < values.length; at++) line += (at ? ' ' : '') + show(values[at]);
    host('write', line + '\n');
  };

  let input = null;
  let position = 0;
  const read = () => {
    if (input === null) input = host('input', '');
    return input;
  };
  const readline = () => {
    const text = read();
    if (position >= text.length) return null;
    let end = text.indexOf('\n', position);
    if (end < 0) end = text.length;
    const line = text.slice(position, end);
    position = end + 1;
    return line;
  };
  const rest = () => {
    const text = read().slice(position);
    position = read().length;
    return text;
  };

  // Timers run after the program, in the order of a clock that stands still while code runs.
  const timers = [];
  let clock = 0;
  const setTimeout = (task, delay, ...values) => {
    timers.push({ task, values, due: clock + (delay > 0 ? +delay : 0) });
    return timers.length;
  };
  const nextTimer = () => {
    let next = -1;
    for (let at = 0; at < timers.length; at++) {
      if (timers[at] && (next < 0 || timers[at].due < timers[next].due)) next = at;
    }
    if (next < 0) return false;
    const { task, values, due } = timers[next];
    timers[next] = null;
    clock = due;
    task(...values);
    return true;
  };

  const modules = {
    fs: {
      readFileSync: (path) => {
        if (path === 0 || path === '/dev/stdin') return rest();
        throw new Failure(`there is no file ${Text(path)}`);
      },
    },
    process: null,
  };
  const process = {
    argv: ['node', 'program.js'],
    env: {},
    stdout: { write: (text) => { host('write', Text(text)); return true; } },
    stderr: { write: () => true },
  };
  modules.process = process;

  const silent = () => {};
  const module = { exports: {} };
  const globals = {
    print,
    readline,
    setTimeout,
    clearTimeout: (number) => { if (timers[number - 1]) timers[number - 1] = null; },
    console: { log: print, info: print, debug: print, error: silent, warn: silent },
    process,
    module,
    exports: module.exports,
    require: (name) => {
      const found = modules[Text(name).replace(/^node:/, '')];
      if (!found) throw new Failure(`there is no module ${Text(name)}`);
      return found;
    },
  };
  for (const name of keys(globals)) {
    defineProperty(globalThis, name, {
      value: globals[name], writable: true, configurable: true, enumerable: false,
    });
  }

  // Assertions of a judge, which holds no program.
  const same = (left, right) => {
    if (left === right) return true;
    if (typeof left === 'number' && typeof right === 'number') {
      return left !== left && right !== right;
    }
    if (typeof left !== 'object' || typeof right !== 'object' || !left || !right) return false;
    if (isArray(left) !== isArray(right)) return false;
    const names = keys(left);
    if (names.length !== keys(right).length) return false;
    return names.every((name) => hasOwn(right, name) && same(left[name], right[name]));
  };
  const fail = (message, usual) => {
    const error = new Failure(message === undefined ? usual : Text(message));
    error.name = 'AssertionError';
    throw error;
  };
  const assertions = () => {
    const pair = (holds, word) => (left, right, message) => {
      if (!holds(left, right)) fail(message, `${show(left)} ${word} ${show(right)}`);
    };
    const assert = (value, message) => {
      if (!value) fail(message, 'an assertion does not hold');
    };
    assert.ok = assert;
    assert.equal = assert.strictEqual = pair((a, b) => Object.is(a, b), 'is not');
    assert.notEqual = assert.notStrictEqual = pair((a, b) => !Object.is(a, b), 'is');
    assert.deepEqual = assert.deepStrictEqual = pair(same, 'is not');
    assert.notDeepEqual = assert.notDeepStrictEqual = pair((a, b) => !same(a, b), 'is');
    assert.throws = (task) => {
      try { task(); } catch { return; }
      fail(undefined, 'nothing was thrown');
    };
    return assert;
  };

  let settled = null;
  const outcome = (value) => { settled = { value }; };
  const failure = (error) => { settled = { error }; };

  const commands = {
    // Calls a function; what it gives, or promises, is taken later.
    call: (text, task) => {
      settled = null;
      const value = apply(task, undefined, parse(text));
      if (value instanceof Later) apply(then, value, [outcome, failure]);
      else outcome(value);
    },
    take: () => {
      if (settled === null) throw new Failure('a promise that is never kept');
      if ('error' in settled) throw settled.error;
      if (settled.value === undefined) return '-undefined';
      try {
        return '+' + write(settled.value, 0);
      } catch (error) {
        return '-' + Text(error.message);
      }
    },
    kind: (text, value) => typeof value,
    timer: () => (nextTimer() ? '1' : ''),
    // Where a function of the program is asked for, in an engine without it.
    stand_in: (name) => {
      const stand = (...values) => {
        const answer = host('ask', stringify(name) + '\n' + write(values, 0));
        if (answer !== '') return parse(answer);
        const error = new Failure('the program threw');
        error.name = 'ProgramError';
        throw error;
      };
      defineProperty(globalThis, name, { value: stand, writable: false, configurable: false });
    },
    judge: () => {
      const assert = assertions();
      defineProperty(globalThis, 'assert', { value: assert });
      modules.assert = assert;
      modules['assert/strict'] = assert;
    },
    describe: (text, error) => {
      const part = (name) => {
        try { return Text(error[name]).slice(0, 2000); } catch { return ''; }
      };
      let thrown = 'what cannot be shown';
      try { thrown = show(error).slice(0, 2000); } catch { /* stays */ }
      return error instanceof Failure
        ? stringify([part('name'), part('message'), part('stack')])
        : stringify(['', thrown, '']);
    },
  };
  return (command, text, value) => commands[command](text, value);
})
