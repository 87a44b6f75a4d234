// An OpenID Connect issuer by oidc-provider: issuer.mjs MODULES PORT. Its client
// gets tokens of alice's by its own credentials, JWTs or others by the resource
// that they are for.
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [modules, port] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });

const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
        client_id: 'robot', client_secret: 'robot/s3cret+', grant_types: ['client_credentials'], redirect_uris: [], response_types: []
    }],
    jwks: { keys: [{ ...key, use: 'sig', kid: 'ec' }, { ...rsa, use: 'sig', kid: 'rsa' }] },
    scopes: ['smtp', 'imap'],
    extraTokenClaims: () => ({ email: 'alice@example.test', email_verified: true, quota: 7 }),
    ttl: { ClientCredentials: 600 },
    features: {
        devInteractions: { enabled: false },
        clientCredentials: { enabled: true },
        introspection: { enabled: true },
        resourceIndicators: {
            enabled: true,
            getResourceServerInfo: (ctx, resource) => ({
                audience: new URL(resource).hostname,
                scope: 'smtp imap',
                accessTokenFormat: resource.endsWith('/opaque') ? 'opaque' : 'jwt',
                jwt: { sign: { alg: resource.endsWith('/rsa') ? 'RS256' : 'ES256' } }
            })
        }
    }
});
provider.listen(+port, '127.0.0.1', () => console.log('issuing'));
