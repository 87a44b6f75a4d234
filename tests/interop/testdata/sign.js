// Signs each file with mailauth: sign.js KEY DOMAIN SELECTOR ALGORITHM FILE... It
// writes FILE.METHOD for each pair of canonical forms.
const fs = require('fs');
const { dkimSign } = require('mailauth/lib/dkim/sign');

const [keyfile, domain, selector, algorithm, ...files] = process.argv.slice(2);

// Without a time it takes one twice, and two seconds make a signature that fails.
const when = new Date();

(async () => {
    const privateKey = fs.readFileSync(keyfile);
    for (const file of files) {
        const text = fs.readFileSync(file);
        for (const canonicalization of ['simple/simple', 'relaxed/relaxed', 'simple/relaxed', 'relaxed/simple']) {
            const res = await dkimSign(text, {
                canonicalization, algorithm, signTime: when,
                signatureData: [{ signingDomain: domain, selector, privateKey, canonicalization, algorithm }]
            });
            if (res.errors.length) {
                throw new Error(`${file}: ${JSON.stringify(res.errors)}`);
            }
            fs.writeFileSync(`${file}.${canonicalization.replace('/', '-')}`, Buffer.concat([Buffer.from(res.signatures), text]));
        }
    }
})().catch(err => {
    console.error(err);
    process.exit(1);
});
