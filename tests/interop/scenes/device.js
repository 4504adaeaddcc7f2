'use strict';
// azure-iot-device over MQTT: telemetry, twins, methods, modules, certificates, tokens; azure-iothub on the other side.
const fs = require('fs');
const { assert, iothub, registryOf, create, connectionString, fails, call, next } = require('./support');
const { Client, ModuleClient, Message, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

async function connected(identity, make = Client) {
  const client = make.fromConnectionString(connectionString(identity), Mqtt);
  await client.open();
  return client;
}

/** Desired properties arrive from now on. */
const listen = (twin) => call(twin, 'enableTwinDesiredPropertiesUpdates');

/** The answer of a method; the hub waits until the device listens. */
const invoke = async (t, ids, params) => (await iothub.Client.fromConnectionString(t.login)
  .invokeDeviceMethod(...ids, { connectTimeoutInSeconds: 20, responseTimeoutInSeconds: 20, ...params }));

exports.telemetry = async (t) => {
  const client = await connected(await create(registryOf(t), 'd1'));
  const message = new Message(JSON.stringify({ windSpeed: 11.2 }));
  message.messageId = 'm/1 ä&=?#+';
  message.correlationId = 'c-1';
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.userId = 'u 1';
  message.properties.add('alert', 'true');
  message.properties.add('a b&=$/ü', 'c d&=%/ö');
  await client.sendEvent(message);
  for (const bytes of [Buffer.from([0, 255, 10, 13, 0]), Buffer.alloc(255 * 1024, 'x'), Buffer.alloc(0)]) {
    await client.sendEvent(new Message(bytes));
  }
  await Promise.all([1, 2, 3].map((i) => client.sendEvent(new Message(`at once ${i}`))));
  assert.equal((await registryOf(t).get('d1')).responseBody.connectionState, 'Connected');
  await client.close();
};

exports.refused = async (t) => {
  const registry = registryOf(t);
  const device = await create(registry, 'd1');
  const wrong = { ...device, authentication: { symmetricKey: { primaryKey: Buffer.alloc(32).toString('base64') } } };
  const unknown = { ...device, deviceId: 'none' };
  for (const identity of [wrong, unknown]) {
    await fails(connected(identity), 'UnauthorizedError');
  }
  const secondary = { ...device, authentication: { symmetricKey: { primaryKey: device.authentication.symmetricKey.secondaryKey } } };
  await (await connected(secondary)).close();
  await registry.update({ ...device, status: 'disabled' });
  await fails(connected(device), 'UnauthorizedError');
};

exports.cut = async (t) => {
  const registry = registryOf(t);
  for (const [id, cut] of [['d1', (d) => registry.update({ ...d, status: 'disabled' })], ['d2', (d) => registry.delete(d.deviceId)]]) {
    const device = await create(registry, id);
    const client = await connected(device);
    client.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 });
    const gone = next(client, 'disconnect');
    await cut(device);
    await gone;
  }
};

exports.twin = async (t) => {
  const registry = registryOf(t);
  const device = await create(registry, 'd1');
  await registry.updateTwin('d1', { tags: { secret: 1 }, properties: { desired: { interval: 5, mode: { a: 1, b: 2 } } } }, '*');
  const client = await connected(device);
  const twin = await client.getTwin();
  assert.deepEqual(twin.properties.desired, { interval: 5, mode: { a: 1, b: 2 }, $version: 2 });
  assert.equal(twin.properties.reported.$version, 1);

  await listen(twin);
  const changed = new Promise((resolve) => twin.on('properties.desired', (p) => p.$version === 3 && resolve(p)));
  await registry.updateTwin('d1', { properties: { desired: { interval: 9, mode: { a: null } } } }, '*');
  assert.deepEqual(await changed, { interval: 9, mode: { a: null }, $version: 3 });
  assert.deepEqual(twin.properties.desired, { interval: 9, mode: { b: 2 }, $version: 3 });

  await call(twin.properties.reported, 'update', { firmware: '1.2', battery: { level: 80, low: false } });
  await call(twin.properties.reported, 'update', { battery: { low: null } });
  const { responseBody: stored } = await registry.getTwin('d1');
  const { $version, $metadata, ...reported } = stored.properties.reported;
  assert.deepEqual(reported, { firmware: '1.2', battery: { level: 80 } });
  assert.equal($version, 3);
  assert.deepEqual(Object.keys($metadata.battery.level), ['$lastUpdated']); // no version, unlike desired ones
  const rows = (await registry.createQuery('SELECT * FROM devices WHERE properties.reported.battery.level = 80').next()).result;
  assert.deepEqual(rows.map((r) => r.deviceId), ['d1']);
  await assert.rejects(call(twin.properties.reported, 'update', { bad: 'x'.repeat(40000) }));

  const again = await client.getTwin();
  assert.equal(again.properties.reported.firmware, '1.2');
  await client.close();
};

exports.methods = async (t) => {
  const client = await connected(await create(registryOf(t), 'd1'));
  client.onDeviceMethod('reboot', (request, response) => response.send(222, { asked: request.payload }, assert.ifError));
  client.onDeviceMethod('nothing', (request, response) => response.send(200, assert.ifError));
  client.onDeviceMethod('silent', () => {});
  const full = await invoke(t, ['d1'], { methodName: 'reboot', payload: { delay: [1, 'ä'] } });
  assert.deepEqual(full.result, { status: 222, payload: { asked: { delay: [1, 'ä'] } } });
  for (const payload of ['text', 0, false, null, undefined, []]) {
    const { result } = await invoke(t, ['d1'], { methodName: 'reboot', payload });
    assert.deepEqual(result.payload, { asked: payload === undefined ? null : payload });
  }
  assert.equal((await invoke(t, ['d1'], { methodName: 'nothing' })).result.payload, null);
  await fails(invoke(t, ['d1'], { methodName: 'silent', connectTimeoutInSeconds: 0, responseTimeoutInSeconds: 5 }),
    'GatewayTimeoutError', 504);
  await fails(invoke(t, ['d1'], { methodName: 'silent', responseTimeoutInSeconds: 4, connectTimeoutInSeconds: 0 }), 'ArgumentError', 400);
  await client.close();
  const gone = await fails(invoke(t, ['d1'], { methodName: 'reboot', connectTimeoutInSeconds: 0 }), 'Error', 404);
  assert.match(gone.responseBody, /404103/);
  await fails(invoke(t, ['none'], { methodName: 'reboot', connectTimeoutInSeconds: 0 }), 'DeviceNotFoundError', 404, 'DeviceNotFound');

  // A call that waits reaches the device when it comes back; its session listens from the start.
  const waiting = invoke(t, ['d1'], { methodName: 'late' });
  const back = Client.fromConnectionString(connectionString((await registryOf(t).get('d1')).responseBody), Mqtt);
  back.onDeviceMethod('late', (request, response) => response.send(200, 'back', assert.ifError));
  assert.equal((await waiting).result.payload, 'back');
  await back.close();
};

exports.module = async (t) => {
  const registry = registryOf(t);
  const device = await connected(await create(registry, 'd1'));
  await registry.addModule({ deviceId: 'd1', moduleId: 'm1' });
  const module = await connected((await registry.getModule('d1', 'm1')).responseBody, ModuleClient);
  await module.sendEvent(new Message('from the module'));
  await module.sendOutputEvent('out', new Message('from an output'));
  await device.sendEvent(new Message('from the device')); // neither has cut the other off

  module.onMethod('ping', (request, response) => response.send(200, 'pong', assert.ifError));
  assert.equal((await invoke(t, ['d1', 'm1'], { methodName: 'ping' })).result.payload, 'pong');
  const twin = await module.getTwin();
  await listen(twin);
  const changed = new Promise((resolve) => twin.on('properties.desired.interval', resolve));
  await registry.updateModuleTwin('d1', 'm1', { properties: { desired: { interval: 7 } } }, '*');
  assert.equal(await changed, 7);
  await call(twin.properties.reported, 'update', { ok: true });
  assert.equal((await registry.getModuleTwin('d1', 'm1')).responseBody.properties.reported.ok, true);
  assert.ok(!('ok' in (await registry.getTwin('d1')).responseBody.properties.reported));
  await module.close();
  await device.close();
};

exports.certificate = async (t) => {
  const registry = registryOf(t);
  const { cert, key, thumbprint, other } = t.arguments;
  const zeros = '0'.repeat(thumbprint.length);
  const identity = { deviceId: 'd1', authentication: { x509Thumbprint: { primaryThumbprint: zeros, secondaryThumbprint: thumbprint } } };
  await create(registry, identity);
  await create(registry, 'sas');
  const client = (deviceId) => Client.fromConnectionString(`HostName=localhost;DeviceId=${deviceId};x509=true`, Mqtt);
  const read = (path) => fs.readFileSync(path, 'utf8');

  const right = client('d1');
  await right.setOptions({ cert: read(cert), key: read(key) });
  await right.open();
  await right.sendEvent(new Message('by certificate'));
  await right.close();
  for (const [id, c, k] of [['d1', other.cert, other.key], ['sas', cert, key]]) {
    const wrong = client(id);
    await wrong.setOptions({ cert: read(c), key: read(k) });
    await fails(wrong.open(), 'UnauthorizedError');
  }
};

/** A connection outlives its tokens: each renewal connects anew, and what was subscribed stays so. */
exports.renewal = async (t) => {
  const registry = registryOf(t);
  const device = await create(registry, 'd1');
  const provider = SharedAccessKeyAuthenticationProvider.fromConnectionString(connectionString(device), 6, 4);
  const client = Client.fromAuthenticationProvider(provider, Mqtt);
  let renewals = 0;
  const renewed = new Promise((resolve) => provider.on('newTokenAvailable', () => ++renewals === 4 && resolve()));
  await client.open();
  client.onDeviceMethod('ping', (request, response) => response.send(200, renewals, assert.ifError));
  const twin = await client.getTwin();
  await listen(twin);
  await renewed; // longer than the first token was good for
  provider.setTokenRenewalValues(3600, 900); // the last one, so that none comes in between
  await client.sendEvent(new Message('after the renewals'));
  const { result } = await invoke(t, ['d1'], { methodName: 'ping' });
  assert.ok(result.payload >= 4, result.payload);
  const changed = new Promise((resolve) => twin.on('properties.desired.interval', resolve));
  await registry.updateTwin('d1', { properties: { desired: { interval: 7 } } }, '*');
  assert.equal(await changed, 7);
  await client.close();
};
