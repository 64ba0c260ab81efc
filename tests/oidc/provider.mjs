// A certified OpenID Connect provider on a free loopback port, with the people and clients that the tests use.
// Its one argument is how many seconds its tokens live; it prints its issuer when it listens, and ends with its stdin.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const life = Number(process.argv[2] ?? 3600);

// Who may sign in, and what the provider knows of them.
const people = {
  olga: { email: 'olga@shop.example', email_verified: true, groups: ['operators'] },
  alice: { email: 'alice@shop.example', email_verified: true, groups: ['shop-oncall'] },
  anna: { email: 'anna@shop.example', email_verified: true, groups: ['auditors'] },
  mallory: { email: 'olga@shop.example', email_verified: false, groups: ['operators'] },
};

const key = (kind, options, use) => {
  const { privateKey } = generateKeyPairSync(kind, options);
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', ...use };
};
const jwks = {
  keys: [
    key('rsa', { modulusLength: 2048 }, { alg: 'RS256', kid: 'rsa' }),
    key('ec', { namedCurve: 'P-256' }, { alg: 'ES256', kid: 'ec' }),
    key('ed25519', {}, { alg: 'EdDSA', kid: 'ed' }),
  ],
};

const person = (client_id) => ({
  client_id,
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  redirect_uris: ['http://127.0.0.1/callback', 'http://127.0.0.1/ui/sign-in/back'],
});
const workload = (alg) => ({
  client_id: `agent-${alg}`,
  client_secret: 'a secret of the test',
  token_endpoint_auth_method: 'client_secret_post',
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
});

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks,
    clients: [person('protem-people'), person('another-tool'), ...['RS256', 'ES256', 'EdDSA'].map(workload)],
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'] },
    scopes: ['openid', 'offline_access', 'email', 'groups'],
    findAccount: (_, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
    // Only what is asked for by the `claims` parameter is put into id tokens.
    conformIdTokenClaims: true,
    pkce: { required: () => true },
    issueRefreshToken: () => true,
    rotateRefreshToken: true,
    cookies: { keys: ['a key of the test'] },
    ttl: { IdToken: life, AccessToken: life, ClientCredentials: life, AuthorizationCode: 60, RefreshToken: 3600,
      Grant: 3600, Interaction: 3600, Session: 3600 },
    features: {
      claimsParameter: { enabled: true },
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource, client) => ({
          scope: '',
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: client.clientId.split('-')[1] } },
        }),
        useGrantedResource: () => true,
      },
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume().on('end', () => process.exit(0));
