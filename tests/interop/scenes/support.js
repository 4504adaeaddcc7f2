'use strict';
// What the scenes share.
const assert = require('assert/strict');
const iothub = require('azure-iothub');

const registryOf = (t) => iothub.Registry.fromConnectionString(t.login);

/** Creates a device; returns what the hub made of it. */
async function create(registry, device) {
  return (await registry.create(typeof device === 'string' ? { deviceId: device } : device)).responseBody;
}

/** The connection string of an identity, with its primary key. */
function connectionString(identity) {
  const module = identity.moduleId ? `;ModuleId=${identity.moduleId}` : '';
  const key = identity.authentication.symmetricKey.primaryKey;
  return `HostName=localhost;DeviceId=${identity.deviceId}${module};SharedAccessKey=${key}`;
}

/** The promise fails with the SDK's error of that name, which came of that status and code of the hub. */
async function fails(promise, name, status, code) {
  const error = await promise.then(() => assert.fail(`no ${name}`), (e) => e);
  assert.equal(error.name, name, `${error.name}: ${error.message}`);
  if (status !== undefined) assert.equal(error.response.statusCode, status);
  if (code !== undefined) {
    assert.equal(error.response.headers['iothub-errorcode'], code);
    assert.match(error.responseBody, new RegExp(code));
  }
  return error;
}

/** Callback style to a promise. */
const call = (object, method, ...args) =>
  new Promise((resolve, reject) => object[method](...args, (error, result) => (error ? reject(error) : resolve(result))));

/** The next event of an emitter. */
const next = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));

module.exports = { assert, iothub, registryOf, create, connectionString, fails, call, next };
