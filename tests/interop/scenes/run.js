'use strict';
// run.js FILE SCENE: plays exports.SCENE of FILE. The first line of standard input has the hub and the arguments.
// t.login is the hub's connection string, t.say(value) tells the test something, t.hear() is what it says next.
const readline = require('readline');

async function main() {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const hear = async () => JSON.parse((await lines.next()).value);
  const t = { ...(await hear()), hear, say: (value) => process.stdout.write(JSON.stringify(value) + '\n') };
  await require(process.argv[2])[process.argv[3]](t);
}

// What an SDK leaves open, timers and idle connections, keeps nobody waiting.
main().then(() => process.stdout.write('', () => process.exit(0)), (error) => {
  // Not the whole object: an error of the SDK holds the request with its token.
  console.error(error.stack || error, error.responseBody || '');
  process.exit(1);
});
