// The seed's program: what is between <> there is an argument here, and the strings are loaded from files.
// Usage: node seed.js PORT CHANNEL_ID THING_KEY CERTIFICATE_FILE KEY_FILE
const [port, channelId, thingKey, certificateFile, keyFile] = process.argv.slice(2)
const { readFileSync } = require('fs')

const WebSocket = require('ws');

// Do not verify self-signed certificates if you are using one.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'

const ws = new WebSocket(`wss://localhost:${port}/ws/channels/${channelId}/messages?authorization=${thingKey}`,
// This is ClientOptions object that contains client cert and client key in the form of string.
{
    cert: readFileSync(certificateFile, 'utf8'),
    key: readFileSync(keyFile, 'utf8')
})

ws.on('open', () => {
    ws.send('something')
})

ws.on('message', (data) => {
    console.log(data)
})
ws.on('error', (e) => {
    console.log(e)
})
