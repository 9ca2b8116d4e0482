// A WebSocket that does what it is told in lines of JSON, and tells in lines of JSON what happens to it.
//
// Usage: node ws_client.js '{"url", "protocols", "options"}', the options being those of ws, with cert, key and ca as
// the paths of files. Binary data are in base64 both ways.
const { readFileSync } = require('fs')
const { createInterface } = require('readline')

const WebSocket = require('ws')

const { url, protocols, options } = JSON.parse(process.argv[2])
for (const name of ['cert', 'key', 'ca']) {
  if (options[name]) options[name] = readFileSync(options[name], 'utf8')
}

const tell = (event, more = {}) => console.log(JSON.stringify({ event, ...more }))
const socket = new WebSocket(url, protocols, { maxPayload: 0, ...options })

socket.on('open', () => tell('open', { protocol: socket.protocol, extensions: socket.extensions }))
socket.on('message', (data, binary) =>
  tell('message', binary ? { bytes: data.toString('base64') } : { text: data.toString('utf8') })
)
socket.on('pong', (data) => tell('pong', { bytes: data.toString('base64') }))
socket.on('close', (code, reason) => {
  tell('close', { code, reason: reason.toString('utf8') })
  process.exit()
})
socket.on('error', (error) => tell('error', { message: error.message }))
socket.on('unexpected-response', (request, response) => {
  const parts = []
  response.on('data', (part) => parts.push(part))
  response.on('end', () => {
    tell('refused', { status: response.statusCode, body: Buffer.concat(parts).toString('utf8') })
    process.exit()
  })
})

const commands = {
  text: ({ text }) => socket.send(text),
  bytes: ({ bytes }) => socket.send(Buffer.from(bytes, 'base64')),
  fragments: ({ parts }) => parts.forEach((part, at) => socket.send(part, { fin: at === parts.length - 1 })),
  ping: ({ bytes }) => socket.ping(Buffer.from(bytes, 'base64')),
  close: ({ code, reason }) => socket.close(code, reason),
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  commands[command.do](command)
})
