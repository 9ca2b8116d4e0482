// MQTT.js clients that do what they are told in lines of JSON, and tell in lines of JSON what happens to them. Each is
// named by the number in its lines. Payloads and correlation data are in base64 both ways.
//
// Usage: node mqtt_client.js
const { readFileSync } = require('fs')
const { createInterface } = require('readline')

const mqtt = require('mqtt')

const clients = new Map()
const tell = (id, event, more = {}) => console.log(JSON.stringify({ id, event, ...more }))
const bytes = (text) => Buffer.from(text, 'base64')

// What is not said must not even be undefined.
const decoded = (properties) =>
  properties && properties.correlationData
    ? { ...properties, correlationData: bytes(properties.correlationData) }
    : properties

const encoded = (properties = {}) => ({
  ...properties,
  correlationData: properties.correlationData && properties.correlationData.toString('base64'),
  // A null prototype and repeated names: as pairs.
  userProperties: Object.entries(properties.userProperties || {}).flatMap(([name, values]) =>
    [values].flat().map((value) => [name, value])
  ),
})

const commands = {
  open: (id, { url, options }) => {
    for (const name of ['cert', 'key', 'ca']) {
      if (options[name]) options[name] = readFileSync(options[name], 'utf8')
    }
    if (options.will) {
      options.will.payload = bytes(options.will.payload)
      options.will.properties = decoded(options.will.properties)
    }
    const client = mqtt.connect(url, { reconnectPeriod: 0, connectTimeout: 30000, ...options })
    clients.set(id, client)
    client.on('connect', (packet) => tell(id, 'connected', { sessionPresent: packet.sessionPresent }))
    client.on('error', (error) => tell(id, 'error', { message: error.message, code: error.code }))
    client.on('disconnect', (packet) => tell(id, 'disconnect', { code: packet.reasonCode }))
    client.on('close', () => tell(id, 'close'))
    client.on('message', (topic, payload, packet) =>
      tell(id, 'message', {
        topic,
        payload: payload.toString('base64'),
        qos: packet.qos,
        retain: packet.retain,
        properties: encoded(packet.properties),
      })
    )
  },
  subscribe: (id, { filters, properties }) =>
    clients.get(id).subscribe(filters, { properties }, (error, granted, packet) =>
      tell(id, 'answer', { error: error && error.message, codes: packet ? packet.granted : [] })
    ),
  unsubscribe: (id, { filter }) =>
    clients.get(id).unsubscribe(filter, (error) => tell(id, 'answer', { error: error && error.message })),
  publish: (id, { topic, payload, options }) => {
    options.properties = decoded(options.properties)
    clients.get(id).publish(topic, bytes(payload), options, (error) =>
      tell(id, 'answer', { error: error && error.message, code: error && error.code })
    )
  },
  leave: (id) => clients.get(id).end(false, {}, () => tell(id, 'left')),
  vanish: (id) => clients.get(id).stream.destroy(),
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { id, do: command, ...more } = JSON.parse(line)
    commands[command](id, more)
  })
  .on('close', () => process.exit())
