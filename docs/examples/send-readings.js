#!/usr/bin/env node
// Sends each line of standard input, UTF-8 text, as one message.
//
//   send-readings.js [SOCKET [STREAM]] <readings
//
// STREAM is 32 hex digits. Started again with the same one and the same
// input, the program skips what is stored already.
'use strict';
const crypto = require('crypto');
const net = require('net');

const path = process.argv[2] || '/run/iothubd/iothubd.sock';
const stream = process.argv[3] || crypto.randomBytes(16).toString('hex');
const again = ['lost', 'OutboxFull', 'DiskError', 'LimitExceeded',
               'ShuttingDown'];
let connection = null;
let stored = 0; // so many messages of the stream are safe

class Refused extends Error {
  constructor(name, parameters) {
    super(`${name} ${JSON.stringify(parameters ?? {})}`);
    this.again = again.includes(name);
  }
}

// Calls may follow one another without waiting: the replies come in the
// order of the calls.
class Connection {
  constructor() {
    this.calls = [];
    this.rest = '';
    this.socket = net.connect(path);
    this.socket.setEncoding('utf8');
    this.socket.on('data', (data) => this.onData(data));
    this.socket.on('error', () => {}); // 'close' follows
    this.socket.on('close', () => {
      this.closed = true;
      for (const call of this.calls)
        call.reject(new Refused('lost'));
      this.calls = [];
    });
  }

  onData(data) {
    const replies = (this.rest + data).split('\0');
    this.rest = replies.pop();
    for (const text of replies) {
      const reply = JSON.parse(text);
      const call = this.calls.shift();
      if (reply.error)
        call.reject(new Refused(reply.error.replace('io.iothubd.', ''),
                                reply.parameters));
      else
        call.resolve(reply.parameters);
    }
  }

  call(method, parameters) {
    return new Promise((resolve, reject) => {
      if (this.closed)
        return reject(new Refused('lost'));
      this.calls.push({ resolve, reject });
      this.socket.write(JSON.stringify(
        { method: `io.iothubd.${method}`, parameters }) + '\0');
    });
  }
}

async function connect() {
  connection = new Connection();
  const { next } = await connection.call('Resume', { stream });
  if (next < stored)
    throw new Error('iothubd has forgotten this stream');
  stored = next;
}

// All lines at once; what follows a call that failed fails too, with
// StreamGap, so that no message can overtake another.
async function sendAll(position, lines) {
  const rest = lines.slice(Math.max(stored - position, 0));
  const results = await Promise.allSettled(rest.map((line, i) =>
    connection.call('Send', { stream, position: stored + i,
                              messages: [{ body: line }] })));
  for (const result of results) {
    if (result.status === 'rejected')
      throw result.reason;
    stored++;
  }
}

// Returns when lines, the first of them at position, are safe.
async function send(position, lines) {
  while (stored < position + lines.length) {
    try {
      if (!connection)
        await connect();
      else
        await sendAll(position, lines);
    } catch (error) {
      if (!error.again)
        throw error;
      console.error(`trying again: ${error.message}`);
      connection.socket.destroy(); // the next one asks what is stored
      connection = null;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

async function main() {
  let position = 0;
  let rest = '';
  process.stdin.setEncoding('utf8');
  for await (const data of process.stdin) {
    const lines = (rest + data).split('\n');
    rest = lines.pop();
    await send(position, lines);
    position += lines.length;
  }
  if (rest) {
    await send(position, [rest]);
    position++;
  }
  console.log(`${position} readings are safe`);
}

main().then(() => process.exit(0), (error) => {
  console.error(`behind message ${stored}: ${error.message}`);
  process.exit(65);
});
