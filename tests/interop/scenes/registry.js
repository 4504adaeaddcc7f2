'use strict';
// azure-iothub's Registry: identities, bulk, twins, queries, errors.
const { assert, iothub, registryOf, create, connectionString, fails, call } = require('./support');

const AFTER_1601 = /^\d{18,19}$/; // 100 ns since year 1

exports.identity = async (t) => {
  const registry = registryOf(t);
  const made = await create(registry, 'd1');
  assert.equal(made.status, 'enabled');
  assert.equal(made.connectionState, 'Disconnected');
  assert.equal(made.authentication.type, 'sas');
  assert.match(made.generationId, AFTER_1601);
  for (const which of ['primaryKey', 'secondaryKey']) {
    assert.equal(Buffer.from(made.authentication.symmetricKey[which], 'base64').length, 32);
  }
  const got = (await registry.get('d1')).responseBody;
  assert.deepEqual(got.authentication, made.authentication);
  assert.equal(got.etag, made.etag);

  const key = Buffer.alloc(32, 7).toString('base64');
  const changed = (await registry.update({
    deviceId: 'd1', status: 'disabled', statusReason: 'repair',
    authentication: { symmetricKey: { primaryKey: key, secondaryKey: key } },
  })).responseBody;
  assert.equal(changed.status, 'disabled');
  assert.equal(changed.statusReason, 'repair');
  assert.notEqual(changed.etag, made.etag);
  assert.equal(changed.generationId, made.generationId);
  assert.equal(changed.authentication.symmetricKey.primaryKey, key);

  const removed = await registry.delete('d1');
  assert.equal(removed.httpResponse.statusCode, 204);
  assert.notEqual((await create(registry, 'd1')).generationId, made.generationId);
};

exports.names = async (t) => {
  const registry = registryOf(t);
  const names = ["-.:%_*?!(),=@$'", 'a%20b', '%', 'x'.repeat(128), '$.:'];
  for (const name of names) {
    assert.equal((await create(registry, name)).deviceId, name);
    assert.equal((await registry.get(name)).responseBody.deviceId, name);
    assert.equal((await registry.getTwin(name)).responseBody.deviceId, name);
  }
  const listed = (await registry.list()).responseBody.map((d) => d.deviceId);
  assert.deepEqual(listed.sort(), names.sort());
  for (const name of ['a b', 'x'.repeat(129), 'a/b', 'ä']) {
    await fails(registry.create({ deviceId: name }), 'ArgumentError', 400);
  }
  for (const name of names) await registry.delete(name);
  assert.deepEqual((await registry.list()).responseBody, []);
};

exports.errors = async (t) => {
  const registry = registryOf(t);
  await create(registry, 'd1');
  const { host } = t.arguments;
  const error = await fails(registry.get('none'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  assert.match(error.responseBody, /Tracking ID:/);
  await fails(registry.create({ deviceId: 'd1' }), 'DeviceAlreadyExistsError', 409, 'DeviceAlreadyExists');
  await fails(registry.update({ deviceId: 'none' }), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  await fails(registry.delete('none'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  await fails(registry.getTwin('none'), 'DeviceNotFoundError', 404, 'DeviceNotFound');
  await fails(registry.updateTwin('d1', { tags: { a: 1 } }, 'AAAAAAAAAAk='), 'InvalidEtagError', 412, 'PreconditionFailed');
  await fails(registry.updateTwin('d1', { tags: { 'a b': 1 } }, '*'), 'ArgumentError', 400);
  await fails(registry.create({ deviceId: 'd2', status: 'asleep' }), 'ArgumentError', 400);
  await fails(registry.createQuery('SELECT devices').next(), 'ArgumentError', 400);
  await fails(registry.getJob('none'), 'Error', 404, 'JobNotFound');

  const wrong = t.login.replace(/SharedAccessKey=.*/, `SharedAccessKey=${Buffer.alloc(32).toString('base64')}`);
  await fails(iothub.Registry.fromConnectionString(wrong).get('d1'), 'UnauthorizedError', 401, 'IotHubUnauthorizedAccess');
  const unknown = t.login.replace('iothubowner', 'nobody');
  await fails(iothub.Registry.fromConnectionString(unknown).get('d1'), 'UnauthorizedError', 401);
  const { Registry, SharedAccessSignature } = iothub;
  const key = /SharedAccessKey=(.*)/.exec(t.login)[1];
  const now = Math.floor(Date.now() / 1000);
  const token = (resource, expiry) => SharedAccessSignature.create(resource, 'iothubowner', key, expiry).toString();
  await Registry.fromSharedAccessSignature(token(host, now + 600)).get('d1');
  await fails(Registry.fromSharedAccessSignature(token(host, now - 600)).get('d1'), 'UnauthorizedError', 401);
  // A device's key opens nothing here.
  const device = (await registry.get('d1')).responseBody.authentication.symmetricKey.primaryKey;
  const own = SharedAccessSignature.create(host, undefined, device, now + 600).toString();
  await fails(Registry.fromSharedAccessSignature(own).get('d1'), 'UnauthorizedError', 401);
};

exports.bulk = async (t) => {
  const registry = registryOf(t);
  const ids = Array.from({ length: 100 }, (_, i) => `bulk-${i}`);
  const good = { isSuccessful: true, errors: [], warnings: [] };
  assert.deepEqual((await registry.addDevices(ids.map((deviceId) => ({ deviceId })))).responseBody, good);
  const all = (await registry.list()).responseBody;
  assert.equal(all.length, 100);
  assert.ok(all.every((d) => d.authentication.symmetricKey.primaryKey.length === 44));

  const some = all.slice(0, 3).map((d) => ({ ...d, status: 'disabled', eTag: d.etag }));
  assert.deepEqual((await registry.updateDevices(some, true)).responseBody, good);
  const statistics = (await registry.getRegistryStatistics()).responseBody;
  assert.deepEqual(statistics, { totalDeviceCount: 100, enabledDeviceCount: 97, disabledDeviceCount: 3 });

  // One that exists already fails alone; a stale etag does, too.
  const again = await fails(registry.addDevices([{ deviceId: 'bulk-0' }, { deviceId: 'new' }]), 'ArgumentError', 400);
  const answer = JSON.parse(again.responseBody);
  assert.equal(answer.isSuccessful, false);
  assert.deepEqual(answer.errors.map((e) => e.deviceId), ['bulk-0']);
  assert.equal((await registry.get('new')).responseBody.deviceId, 'new');
  await fails(registry.updateDevices([{ ...some[0], status: 'enabled', eTag: 'c3RhbGU=' }], false), 'ArgumentError', 400);
  assert.equal((await registry.get(some[0].deviceId)).responseBody.status, 'disabled');

  assert.deepEqual((await registry.removeDevices(all.map((d) => ({ deviceId: d.deviceId })), true)).responseBody, good);
  assert.deepEqual((await registry.list()).responseBody.map((d) => d.deviceId), ['new']);
};

exports.modules = async (t) => {
  const registry = registryOf(t);
  await create(registry, 'd1');
  const made = (await registry.addModule({ deviceId: 'd1', moduleId: 'm1', managedBy: 'me' })).responseBody;
  assert.equal(made.managedBy, 'me');
  await fails(registry.addModule({ deviceId: 'd1', moduleId: 'm1' }), 'DeviceAlreadyExistsError', 409);
  await registry.addModule({ deviceId: 'd1', moduleId: 'm2' });
  const listed = (await registry.getModulesOnDevice('d1')).responseBody.map((m) => m.moduleId);
  assert.deepEqual(listed.sort(), ['m1', 'm2']);

  const got = (await registry.getModule('d1', 'm1')).responseBody;
  assert.equal(got.etag, made.etag);
  const changed = (await registry.updateModule({ ...got, managedBy: 'you' })).responseBody;
  assert.equal(changed.managedBy, 'you');
  await fails(registry.updateModule({ ...got, managedBy: 'they' }), 'InvalidEtagError', 412);
  await registry.updateModule({ ...got, managedBy: 'they' }, true);

  const twin = (await registry.getModuleTwin('d1', 'm1')).responseBody;
  assert.equal(twin.moduleId, 'm1');
  await registry.updateModuleTwin('d1', 'm1', { tags: { floor: 3 } }, twin.etag);
  await fails(registry.updateModuleTwin('d1', 'm1', { tags: { floor: 4 } }, twin.etag), 'InvalidEtagError', 412);
  const rows = (await registry.createQuery('SELECT * FROM devices.modules WHERE tags.floor = 3').next()).result;
  assert.deepEqual(rows.map((r) => [r.deviceId, r.moduleId]), [['d1', 'm1']]);

  await fails(call(registry, 'removeModule', got), 'InvalidEtagError', 412);
  await registry.removeModule('d1', 'm1');
  await fails(registry.getModule('d1', 'm1'), 'Error', 404);
};

exports.twins = async (t) => {
  const registry = registryOf(t);
  await create(registry, 'd1');
  const twin = (await registry.getTwin('d1')).responseBody;
  assert.equal(twin.properties.desired.$version, 1);
  assert.equal(twin.properties.reported.$version, 1);
  const first = twin.etag;
  await twin.update({ tags: { site: { floor: 3, wing: 'n' } } });
  assert.notEqual(twin.etag, first);
  assert.equal(twin.properties.desired.$version, 1); // tags do not count
  await twin.update({ tags: { site: { wing: null } }, properties: { desired: { interval: 5, list: [1, { a: 2 }] } } });
  assert.deepEqual(twin.tags, { site: { floor: 3 } });
  assert.equal(twin.properties.desired.interval, 5);
  assert.equal(twin.properties.desired.$version, 2);
  assert.equal(twin.properties.desired.$metadata.interval.$lastUpdatedVersion, 2);

  const stale = (await registry.getTwin('d1')).responseBody;
  await twin.update({ properties: { desired: { interval: null } } });
  await fails(stale.update({ tags: { lost: true } }), 'InvalidEtagError', 412, 'PreconditionFailed');
  await stale.get();
  assert.ok(!('interval' in stale.properties.desired) && !('lost' in stale.tags), 'as stored');
  await fails(twin.update({ properties: { desired: { big: 'x'.repeat(40000) } } }), 'ArgumentError', 400);
};

exports.queries = async (t) => {
  const registry = registryOf(t);
  const devices = Array.from({ length: 25 }, (_, i) => ({ deviceId: `q-${String(i).padStart(2, '0')}`, tags: { n: i, odd: i % 2 === 1 } }));
  await registry.addDevices(devices.map(({ deviceId }) => ({ deviceId })));
  for (const { deviceId, tags } of devices) await registry.updateTwin(deviceId, { tags }, '*');

  const query = registry.createQuery('SELECT * FROM devices', 10);
  const seen = [];
  let pages = 0;
  while (query.hasMoreResults) {
    const twins = (await query.nextAsTwin()).result;
    seen.push(...twins.map((twin) => twin.deviceId));
    pages++;
    assert.ok(twins.length <= 10);
  }
  assert.deepEqual(seen.sort(), devices.map((d) => d.deviceId));
  assert.ok(pages >= 3);
  const ask = async (text) => (await registry.createQuery(text).next()).result;
  assert.deepEqual((await ask("SELECT * FROM devices WHERE deviceId = 'q-07'")).map((r) => r.tags.n), [7]);
  assert.equal((await ask('SELECT * FROM devices WHERE tags.odd = true AND tags.n > 20')).length, 2);
  assert.deepEqual(await ask('SELECT COUNT() AS total FROM devices WHERE NOT tags.odd = true'), [{ total: 13 }]);
  assert.deepEqual(await ask("SELECT deviceId FROM devices WHERE tags.n IN [3, 4] AND STARTSWITH(deviceId, 'q')"),
    [{ deviceId: 'q-03' }, { deviceId: 'q-04' }]);
  const [{ status }] = await ask("SELECT status FROM devices WHERE deviceId = 'q-01'");
  assert.equal(status, 'enabled');
};

/** What iothubctl is to find: a device with all that an SDK stores. */
exports.store = async (t) => {
  const registry = registryOf(t);
  const made = await create(registry, { deviceId: 'sdk', status: 'disabled', statusReason: 'kept in stock' });
  const twin = (await registry.getTwin('sdk')).responseBody;
  await twin.update({ tags: { site: 'Ulm' }, properties: { desired: { interval: 5 } } });
  const thumbprint = 'AB'.repeat(20);
  await create(registry, { deviceId: 'sdk-x509', authentication: { x509Thumbprint: { primaryThumbprint: thumbprint, secondaryThumbprint: thumbprint } } });
  await registry.addModule({ deviceId: 'sdk', moduleId: 'm1' });
  t.say({ etag: made.etag, generationId: made.generationId, twin: JSON.parse(JSON.stringify(twin)), key: connectionString(made) });
};

/** What iothubctl has stored, as the SDK finds it. */
exports.find = async (t) => {
  const registry = registryOf(t);
  const { responseBody: device } = await registry.get('ctl');
  const { responseBody: twin } = await registry.getTwin('ctl');
  t.say({
    status: device.status, etag: device.etag, key: connectionString(device), tags: twin.tags,
    desired: twin.properties.desired.interval, modules: (await registry.getModulesOnDevice('ctl')).responseBody.map((m) => m.moduleId),
  });
};
