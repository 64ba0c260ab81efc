//! Codes PT-04xx: why a gateway refuses a credential.

crate::codes! {
    NO_CREDENTIAL = "PT-0401", "the call carries no credential",
        "a protected operation was called without exactly one `authorization: Bearer` header", "ask for access with `protem request` or `protem run`, and send the token";
    MALFORMED = "PT-0402", "the credential cannot be read",
        "it is not a token of the one kind that this gateway takes", "send the token exactly as the broker gave it";
    UNKNOWN_KEY = "PT-0403", "an unknown key signed the credential",
        "the key is not, or no longer, one of the broker's", "ask again; a renewed credential is signed by a current key";
    BAD_SIGNATURE = "PT-0404", "the credential's signature is wrong",
        "it was changed, cut short, or made by someone else", "send the token exactly as the broker gave it";
    WRONG_ISSUER = "PT-0405", "another broker issued the credential",
        "its `iss` is no issuer that this gateway follows, or one whose credentials it does not take for this resource", "ask the broker of this gateway";
    WRONG_AUDIENCE = "PT-0406", "the credential is for another resource",
        "its `aud` is not the audience of the resource that was called", "ask for access on the resource that you call";
    EXPIRED = "PT-0407", "the credential has expired",
        "its `exp` has come; there is no leeway", "renew credentials when `renew_at` comes, or ask again";
    NOT_YET = "PT-0408", "the credential is from the future",
        "its `nbf` or `iat` is more than 5 seconds ahead of the broker's time", "use the credential a moment later; check the broker's clock";
    WRONG_EPOCH = "PT-0409", "the credential is from before a restore",
        "the broker's journal was restored and all older access is void", "ask again";
    REVOKED = "PT-0410", "access has ended",
        "the task completed, or the grant or something that covers it was revoked", "ask again, if the work is not done";
    KEY_CUT_OFF = "PT-0411", "the key that signed the credential was cut off",
        "everything the key ever signed is void", "renew: the next credential is signed by another key";
    BOUND = "PT-0412", "the credential is bound to a key",
        "this gateway cannot check yet that the caller holds the key", "ask without a proof key";
    MISSING_SCOPE = "PT-0413", "the credential does not cover the operation",
        "none of its scopes maps the operation that was called", "ask for the scope that the answer names";
    UNMAPPED = "PT-0414", "no scope covers the operation",
        "the catalog maps no scope to this method and path, so nobody may call it", "have the operation added to a scope of the catalog, or check the path";
    NOT_CANONICAL = "PT-0415", "the path can be read in two ways",
        "it has dot segments, empty segments, needless or dangerous escapes, or characters that servers read differently", "send the plain path";
    UNREADY = "PT-0416", "the gateway has no view yet",
        "it has not heard a proof from its broker since it started", "try again in a second; look at the gateway's connection to the broker";
    STALE = "PT-0417", "the gateway's view is too old",
        "it has not heard a proof from its broker for longer than the credential allows", "try again in a second; look at the gateway's connection to the broker";
    BEHIND = "PT-0418", "the gateway has not caught up with the credential",
        "the credential is newer than what the gateway knows", "try again in a second";
    CLOSED = "PT-0419", "the broker's journal went back",
        "the broker showed less than it had already proven, or something that the gateway does not understand, so nothing is let through", "look at the broker: `protem recover --new-epoch` after a restore";
    CLOCK_STEPPED = "PT-0420", "the gateway's clock stepped",
        "its wall clock moved against its monotonic clock since the last proof", "try again in a second; look at the machine's time service";
    UNKNOWN_RESOURCE = "PT-0421", "the gateway does not know the resource",
        "the catalog part it was sent does not have the resource it protects", "check the gateway's configuration and its `resources` in the catalog";
    PROXY_HEADERS = "PT-0422", "the proxy does not say once what was called",
        "the configured proxy's pair of headers for method and URI is missing or repeated, or the pair of another kind of proxy came along", "send none of these headers yourself; whoever runs the proxy compares its configuration with docs/gates.md";
    FORGED = "PT-0423", "the call carries a header that no caller may set",
        "a name like `X-Protem-…`, or one that gives the call another method or path (`X-HTTP-Method-Override`, `X-Rewrite-URL` and their kin), spelled in any way that a server could take for it, came from the caller, and this proxy cannot be told to remove it", "send the call without that header";
    NO_SECRET = "PT-0424", "the gateway does not have the secret of the API",
        "the catalog says that the gateway adds a secret to calls of this resource, and it holds none of that name that it can read", "whoever runs the gateway looks at its log and at `[secret.NAME]` of its `gate.toml`";
    NO_ROUTE = "PT-0425", "the route does not name a resource",
        "a gateway decides about a resource that its proxy's configuration names for each route, and this route names none", "whoever runs the proxy adds the resource to the route: docs/gates.md";
    TOO_MANY = "PT-0427", "the credential is used too often",
        "a gateway lets each credential make a limited number of calls a second, so that a task that runs wild slows nobody else", "wait as long as `Retry-After` says; if the work needs more, have the gateway's `rate` raised";
    UNREADABLE = "PT-0426", "what the proxy asked cannot be read",
        "the question is too large, not of the form that its protocol has, or did not come whole", "send a smaller request; if every call is refused so, whoever runs the proxy compares its version and configuration with docs/gates.md";
}
