//! Codes PT-06xx: who the caller is.

crate::codes! {
    NO_TOKEN = "PT-0601", "nobody signed in",
        "the call has no `authorization: Bearer` with a JWT of a trusted issuer", "send a token of an issuer that the bundle names; `protem auth status` explains";
    MANY_TOKENS = "PT-0602", "more than one caller token",
        "a call has exactly one `authorization` header, so that nobody disagrees on who called", "send one";
    TOKEN_UNREADABLE = "PT-0603", "the caller token cannot be read",
        "it is too long, not a compact JWT, or has a header or claim that is not allowed", "send the token exactly as its issuer made it";
    UNKNOWN_ISSUER = "PT-0604", "the caller token's issuer is not trusted",
        "`iss` is not exactly the `url` of an issuer of the bundle", "add the issuer to `issuers.toml`, or use a token of one that is there";
    UNKNOWN_KEY = "PT-0605", "the caller token's key is not known",
        "its `kid` is not among the issuer's keys, or its algorithm is not the key's", "with `jwks = \"file:…\"` renew that file; without, the keys are fetched again once in 30 s, so try again";
    BAD_SIGNATURE = "PT-0606", "the caller token's signature is wrong",
        "the token was not signed by the issuer's key, or was changed", "get a fresh token from the issuer";
    WRONG_AUDIENCE = "PT-0607", "the caller token is for somebody else",
        "`aud` does not hold the audience that the bundle names for this issuer", "ask the issuer for a token with that audience";
    TOKEN_EXPIRED = "PT-0608", "the caller token has expired",
        "its `exp` has passed", "get a fresh token from the issuer and connect again";
    TOKEN_EARLY = "PT-0609", "the caller token is not valid yet",
        "its `nbf` or `iat` lies in the future", "set the clocks of the issuer, the caller and the broker";
    NO_MATCH = "PT-0610", "the caller is nobody the bundle knows",
        "the token is valid, and no identity, person or gateway has a login with these claims", "`protem auth status` shows the nearest login and the claim that differs; of an issuer whose tokens anybody can get, other owners' logins are in the broker's log alone";
    FAILED_TOO_OFTEN = "PT-0611", "too many failed sign-ins from this address",
        "callers of one address failed to sign in more than a few times a second", "wait as long as the answer says, and send a valid token";
    NOT_PERMITTED = "PT-0612", "no policy lets this caller do that",
        "people act by the bundle's policies, and workloads on their own tasks and grants", "ask somebody whom the bundle permits it, or have the bundle changed";
    WRONG_KIND = "PT-0613", "this call is not for this kind of caller",
        "workloads ask for access, gateways follow the feed, people govern", "sign in as one of those; `protem auth status` says who you are";
    CALLER_CHANGED = "PT-0614", "the caller is no longer who it was",
        "a stream ends when its caller's token expires or its identity, gateway or groups change", "connect again with a fresh token";
    FOREIGN_ORIGIN = "PT-0615", "the call came from a foreign web page",
        "a development broker answers only its own address, so that no web page reaches it through a browser", "use the address that `protem dev` printed";
    ISSUER_UNREACHABLE = "PT-0616", "the issuer's keys cannot be fetched",
        "the broker cannot tell whether the token is genuine: its issuer's discovery document or key set could not be fetched, and what was fetched before is too old, or the settings' `[issuer.NAME]` is for another `url`", "the message says why; try again, check the issuer, `fetch.allow_private` and `[issuer.NAME]`, or put its keys into the bundle with `jwks = \"file:…\"`";
    KEY_NOT_YET = "PT-0617", "the caller token's key is not known yet",
        "its `kid` is not among the keys that were last fetched from its issuer, and they are fetched again once in 30 s", "come back when the answer says; a token of a key that the issuer has published comes in then";
    CERTIFICATE_EXPIRED = "PT-0620", "the caller's certificate has expired",
        "its end has passed, before the connection was opened or since", "connect again with the certificate's successor; the SPIFFE agent writes it in time";
    CERTIFICATE_UNTRUSTED = "PT-0621", "nobody vouches for the caller's certificate",
        "it breaks a rule of X.509-SVID, or the roots of its own trust domain do not vouch for it (any more)", "compare the certificate with the bundle file that `[spiffe]` names for its trust domain";
}
