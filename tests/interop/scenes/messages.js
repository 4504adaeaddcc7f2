'use strict';
// Events to those who read them, messages to devices and back: azure-event-hubs, @azure/event-hubs, azure-iothub.
const { assert, iothub, registryOf, create, connectionString, call, next } = require('./support');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

async function device(t, id) {
  const client = Client.fromConnectionString(connectionString(await create(registryOf(t), id)), Mqtt);
  await client.open();
  return client;
}

// ---- events ----

/** The library of the tutorial's own tool, which finds the events from the hub's connection string. Says each event. */
exports.explorer = async (t) => {
  const { Client: EventHubClient } = require('azure-event-hubs');
  const client = EventHubClient.fromConnectionString(t.login);
  await client.open();
  const ids = await client.getPartitionIds();
  assert.deepEqual([...ids].sort(), ['0', '1', '2', '3']);
  let left = t.arguments.count;
  await new Promise((resolve, reject) => {
    for (const id of ids) {
      client.createReceiver('$Default', id, { startAfterTime: 0 }).then((receiver) => {
        receiver.on('errorReceived', reject);
        receiver.on('message', (event) => {
          t.say({ body: event.body, properties: event.properties, applicationProperties: event.applicationProperties,
            annotations: event.annotations, systemProperties: event.systemProperties });
          if (--left === 0) resolve();
        });
      }, reject);
    }
  });
  await client.close();
};

/** The Event Hubs-compatible endpoint of a hub, by redirect, as the samples of @azure/event-hubs do it. */
async function eventsEndpoint(t) {
  const { Connection } = require('rhea-promise');
  const parts = Object.fromEntries(t.login.split(';').map((p) => [p.slice(0, p.indexOf('=')), p.slice(p.indexOf('=') + 1)]));
  const { HostName: host, SharedAccessKeyName: name, SharedAccessKey: key } = parts;
  const expiry = Math.floor(Date.now() / 1000) + 600;
  const connection = new Connection({
    transport: 'tls', host, hostname: host, port: 5671, reconnect: false, username: `${name}@sas.root.${host.split('.')[0]}`,
    password: iothub.SharedAccessSignature.create(`${host}/messages`, name, key, expiry).toString(),
  });
  await connection.open();
  const source = { address: `amqps://${host}/messages/events/$management` };
  const error = await new Promise((resolve, reject) => {
    connection.createReceiver({ source, credit_window: 0, onError: (context) => resolve(context.receiver.error) }).catch(reject);
  });
  assert.equal(error.condition, 'amqp:link:redirect');
  const { hostname, address } = error.info;
  await connection.close();
  const entity = /5671\/(.*)\/\$management/.exec(address)[1];
  return `Endpoint=sb://${hostname}/;EntityPath=${entity};SharedAccessKeyName=${name};SharedAccessKey=${key}`;
}

const plain = (event) => ({
  body: Buffer.isBuffer(event.body) ? event.body.toString() : event.body, properties: event.properties, systemProperties: event.systemProperties,
  messageId: event.messageId, correlationId: event.correlationId, contentType: event.contentType,
  sequenceNumber: event.sequenceNumber, offset: event.offset, enqueued: event.enqueuedTimeUtc.getTime(),
});

/** Sends with one SDK, reads with another: by redirect or with the connection string of the endpoint. */
exports.eventHubs = async (t) => {
  const { EventHubConsumerClient, earliestEventPosition } = require('@azure/event-hubs');
  const endpoint = t.arguments.events || (await eventsEndpoint(t));
  const sender = await device(t, 'd1');
  for (let i = 0; i < 20; i++) {
    const message = new Message(JSON.stringify({ i }));
    message.messageId = `m-${i}`;
    message.correlationId = `c-${i}`;
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('n', `${i} ä`);
    await sender.sendEvent(message);
  }
  const consumer = new EventHubConsumerClient('$Default', endpoint);
  const hub = await consumer.getEventHubProperties();
  assert.deepEqual([...hub.partitionIds].sort(), ['0', '1', '2', '3']);

  const read = (partitions, startPosition, count) => new Promise((resolve, reject) => {
    const seen = [];
    const subscriptions = partitions.map((id) => consumer.subscribe(id, {
      processEvents: async (events) => {
        seen.push(...events.map(plain));
        if (seen.length >= count) resolve({ seen, close: () => Promise.all(subscriptions.map((s) => s.close())) });
      },
      processError: async (error) => reject(error),
    }, { startPosition, maxWaitTimeInSeconds: 1 }));
  });
  const all = await read(hub.partitionIds, earliestEventPosition, 20);
  await all.close();
  assert.deepEqual(all.seen.map((e) => e.body), Array.from({ length: 20 }, (_, i) => ({ i })));
  const [first] = all.seen;
  assert.deepEqual(first.properties, { n: '0 ä' });
  assert.deepEqual([first.messageId, first.correlationId, first.contentType], ['m-0', 'c-0', 'application/json']);
  assert.equal(first.systemProperties['iothub-connection-device-id'], 'd1');
  assert.equal(first.systemProperties['iothub-message-source'], 'Telemetry');
  assert.deepEqual(JSON.parse(first.systemProperties['iothub-connection-auth-method']),
    { scope: 'device', type: 'sas', issuer: 'iothub', acceptingIpFilterRule: null });
  assert.deepEqual(all.seen.map((e) => e.sequenceNumber), Array.from({ length: 20 }, (_, i) => first.sequenceNumber + i));

  // The device's one partition again: by sequence number, by offset, by time; and what comes after "latest".
  const found = [];
  for (const id of hub.partitionIds) if (!(await consumer.getPartitionProperties(id)).isEmpty) found.push(id);
  assert.equal(found.length, 1);
  const properties = await consumer.getPartitionProperties(found[0]);
  assert.equal(properties.lastEnqueuedSequenceNumber, all.seen[19].sequenceNumber);
  for (const position of [
    { sequenceNumber: all.seen[14].sequenceNumber }, { sequenceNumber: all.seen[15].sequenceNumber, isInclusive: true },
    { offset: all.seen[14].offset },
  ]) {
    const rest = await read(found, position, 5);
    await rest.close();
    assert.deepEqual(rest.seen.map((e) => e.body.i), [15, 16, 17, 18, 19], JSON.stringify(position));
  }
  const after = all.seen[15].enqueued - 1;
  const wanted = all.seen.filter((e) => e.enqueued > after).map((e) => e.body.i);
  const later = await read(found, { enqueuedOn: after }, wanted.length);
  await later.close();
  assert.deepEqual(later.seen.map((e) => e.body.i), wanted);
  await assert.rejects(consumer.getPartitionProperties('17'));
  await consumer.close();
  await sender.close();
};

exports.wrongKey = async (t) => {
  const { EventHubConsumerClient } = require('@azure/event-hubs');
  const wrong = t.arguments.events.replace(/SharedAccessKey=[^;]*/, `SharedAccessKey=${Buffer.alloc(32, 1).toString('base64')}`);
  const consumer = new EventHubConsumerClient('$Default', wrong, { retryOptions: { maxRetries: 0 } });
  const error = await consumer.getEventHubProperties().then(() => assert.fail('a wrong key opened'), (e) => e);
  assert.match(`${error.code} ${error.message}`, /[Uu]nauthori|InvalidSignature|401/);
  await consumer.close();
};

// ---- messages to devices ----

async function service(t) {
  const client = iothub.Client.fromConnectionString(t.login);
  await client.open();
  return client;
}

exports.toDevice = async (t) => {
  const client = await service(t);
  const receiver = await device(t, 'd1');
  const message = new Message('ä hello');
  message.messageId = 'id/1';
  message.correlationId = 'c&1';
  message.contentType = 'text/plain';
  message.properties.add('a b', 'c=d&/é');
  const came = next(receiver, 'message'); // subscribes
  await client.send('d1', message);
  const got = await came;
  assert.equal(got.getData().toString(), 'ä hello');
  assert.equal(got.messageId, 'id/1');
  assert.equal(got.correlationId, 'c&1');
  assert.equal(got.contentType, 'text/plain');
  assert.equal(got.to, '/devices/d1/messages/devicebound');
  assert.equal(got.properties.getValue('a b'), 'c=d&/é');
  await receiver.complete(got);
  await receiver.close();

  // While it is away they wait, in order.
  for (const text of ['1', '2', '3']) await client.send('d1', new Message(text));
  assert.equal((await registryOf(t).get('d1')).responseBody.cloudToDeviceMessageCount, 3);
  const back = Client.fromConnectionString(connectionString((await registryOf(t).get('d1')).responseBody), Mqtt);
  const texts = [];
  await new Promise((resolve) => back.on('message', (m) => {
    texts.push(m.getData().toString());
    back.complete(m, () => texts.length === 3 && resolve());
  }));
  assert.deepEqual(texts, ['1', '2', '3']);
  await back.close();
  await client.close();
};

exports.refusedMessages = async (t) => {
  const client = await service(t);
  await create(registryOf(t), 'd1');
  const refused = async (promise, name) => {
    const error = await promise.then(() => assert.fail(`no ${name}`), (e) => e);
    assert.equal(error.name, name, `${error.name}: ${error.message}`);
  };
  client.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 });
  await refused(client.send('none', new Message('x')), 'DeviceNotFoundError');
  for (let i = 0; i < 50; i++) await client.send('d1', new Message(`${i}`));
  await refused(client.send('d1', new Message('one too many')), 'DeviceMaximumQueueDepthExceededError');
  assert.equal((await registryOf(t).get('d1')).responseBody.cloudToDeviceMessageCount, 50);
  await client.close();
};

exports.feedback = async (t) => {
  const client = await service(t);
  const receiver = await device(t, 'd1');
  const link = await call(client, 'getFeedbackReceiver');
  const records = new Map();
  const wanted = new Promise((resolve) => link.on('message', (m) => {
    for (const record of JSON.parse(m.getData().toString())) records.set(record.originalMessageId, record);
    link.complete(m, () => records.size === 2 && resolve());
  }));
  const completed = new Message('to be completed');
  completed.messageId = 'm-complete';
  completed.ack = 'full';
  const expired = new Message('gone before it came');
  expired.messageId = 'm-expired';
  expired.ack = 'negative';
  expired.expiryTimeUtc = Date.now() + 1000;
  const unwanted = new Message('nobody asks');
  unwanted.messageId = 'm-none';
  await create(registryOf(t), 'd2');
  await client.send('d2', expired);
  await client.send('d1', unwanted);
  await client.send('d1', completed);
  receiver.on('message', (m) => receiver.complete(m, assert.ifError));
  await wanted;
  assert.deepEqual([...records.keys()].sort(), ['m-complete', 'm-expired']);
  const good = records.get('m-complete');
  assert.deepEqual([good.deviceId, good.statusCode, good.description], ['d1', 'Success', 'Success']);
  const { responseBody: d1 } = await registryOf(t).get('d1');
  assert.equal(good.deviceGenerationId, d1.generationId);
  assert.equal(records.get('m-expired').statusCode, 'Expired');
  await receiver.close();
  await client.close();
};

/** What the door says while a link is redirected, frame by frame. */
exports.frames = async (t) => {
  const rhea = require('rhea');
  const [, host, name, key] = /HostName=(.*?);SharedAccessKeyName=(.*?);SharedAccessKey=(.*)/.exec(t.login);
  const token = iothub.SharedAccessSignature.create(host, name, key, Math.floor(Date.now() / 1000) + 600).toString();
  for (const address of [`amqps://${host}/messages/events/`, `amqps://${host}/messages/events/$management`]) {
    const container = rhea.create_container();
    const connection = container.connect({
      transport: 'tls', host, port: 5671, reconnect: false, username: `${name}@sas.root.${host}`, password: token,
    });
    const receiver = connection.open_receiver({ source: { address }, credit_window: 0, max_message_size: 262144 });
    connection.on('receiver_error', () => {});
    await next(connection, 'receiver_close');
    const { container_id, hostname, max_frame_size, channel_max, idle_time_out } = connection.remote.open;
    const { role, source, target } = receiver.remote.attach;
    const { closed, error } = receiver.remote.detach;
    t.say({ open: { container_id, hostname, max_frame_size, channel_max, idle_time_out },
      attach: { role, source: source && source.address, target: target && target.address },
      detach: { closed, condition: error.condition, description: error.description, info: error.info } });
    connection.close();
    await next(connection, 'connection_close');
  }
};
