// Node's TLS over the loopback interface: a server that wants client certificates, and a client with each of NAME.
// Arguments: the folder, the name that the client expects of the server, NAME... Prints a line of JSON for each.
'use strict'
const fs = require('fs')
const path = require('path')
const tls = require('tls')

const [folder, host, ...names] = process.argv.slice(2)
const read = (name) => fs.readFileSync(path.join(folder, name))
const [ca, crl] = [read('ca.crt'), read('crl.pem')]

const server = tls.createServer(
  { ca, crl, cert: read('server.crt'), key: read('server.key'), requestCert: true, rejectUnauthorized: false },
  (socket) => {
    socket.on('error', () => {})
    socket.end(String(socket.authorized || socket.authorizationError))
  }
)

// rejectUnauthorized and the name are left as they are by default: a server that is not to be trusted is an error.
const connect = (name) =>
  new Promise((resolve) => {
    const [cert, key] = [read(`${name}.crt`), read(`${name}.key`)]
    let said = ''
    tls
      .connect({ host: '127.0.0.1', port: server.address().port, servername: host, ca, crl, cert, key })
      .on('data', (data) => { said += data })
      .on('error', (error) => resolve({ error: error.code }))
      .on('close', () => resolve({ said }))
  })

server.listen(0, '127.0.0.1', async () => {
  for (const name of names) console.log(JSON.stringify(await connect(name)))
  server.close()
})
