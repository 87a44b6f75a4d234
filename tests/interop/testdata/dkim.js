// Prints what mailauth makes of the signatures, or the ARC chain, of files.
//   node dkim.js <dns port> dkim|arc <file...>
'use strict';
const fs = require('fs');
const dns = require('dns').promises;
const { authenticate } = require('mailauth');

const [port, what, ...files] = process.argv.slice(2);
const server = new dns.Resolver();
server.setServers(['127.0.0.1:' + port]);

(async () => {
    for (const file of files) {
        const r = await authenticate(fs.readFileSync(file), {
            ip: '127.0.0.1', helo: 'mx.test', mta: 'mx.test', trustReceived: false,
            disableDmarc: true, disableBimi: true,
            resolver: (name, type) => server.resolve(name, type)
        });
        if (what === 'arc') {
            console.log(file, r.arc.status.result, r.arc.status.comment || '');
            continue;
        }
        for (const s of r.dkim.results) {
            console.log(file, s.algo, s.selector, s.status.result, s.status.comment || '');
        }
    }
})();
