// Reads header blocks, one a line in base64, and prints the addresses in From as
// nodemailer's parser sees them.
'use strict';
const parse = require('nodemailer/lib/addressparser');

for (const line of require('fs').readFileSync(0, 'latin1').trim().split('\n')) {
    const text = Buffer.from(line, 'base64').toString('utf8').replace(/\r\n(?=[ \t])/g, '');
    const all = [];
    for (const field of text.split('\r\n')) {
        const m = /^from[ \t]*:(.*)$/is.exec(field);
        if (m) {
            const flat = list => list.forEach(a => (a.group ? flat(a.group) : a.address && all.push(a.address)));
            flat(parse(m[1]));
        }
    }
    console.log(all.join(' '));
}
