//! Codes PT-07xx: the command line and its settings.

crate::codes! {
    UNREACHABLE = "PT-0701", "the broker cannot be reached",
        "nothing answers at the address of `--broker`", "start one with `protem dev`, or set `--broker` (PROTEM_BROKER)";
    PLAIN_HTTP = "PT-0702", "a token would travel in the clear",
        "a caller token is never sent over plain HTTP beyond loopback", "use an address on 127.0.0.1, `[::1]` or `localhost`";
    DEV_KEY = "PT-0703", "there is no usable development key",
        "`--as` signs with the key of a `protem dev` on this machine, which only its own user may read (mode 0600)",
        "start `protem dev` as this user, or sign in with `--token-file`";
    SETTINGS = "PT-0704", "the settings cannot be used",
        "a settings file has an unknown key or a value that is not what it should be", "compare with `protem config sample`";
    TOKEN_FILE = "PT-0705", "the token file cannot be used",
        "it is missing, empty or holds something other than one token", "look at the file that `--token-file` (PROTEM_TOKEN_FILE) names";
    AMBIGUOUS = "PT-0706", "more than one grant has that in its id",
        "a part of an id counts when exactly one grant begins or ends with it", "give more of the id; `protem grants` shows them";
    NO_MATCH = "PT-0707", "no grant has that in its id",
        "neither the beginning nor the end of any grant that you may see is like that", "look at `protem grants`";
    DEV_JOURNAL = "PT-0708", "the journal was made by `protem dev`",
        "a development journal is trusted by a key on a workstation, so `protem serve` never continues it", "give `store.path` a new file";
    LOOPBACK_ONLY = "PT-0709", "a broker beyond loopback needs TLS",
        "callers' tokens and credentials would travel in the clear", "give `[tls]` a certificate and its key, or set `listen` to an address on 127.0.0.1";
    COMMAND = "PT-0710", "the command cannot be started",
        "the program does not exist, or may not be executed", "check its name and path";
    STEP = "PT-0711", "a step did not go as told",
        "the demo or measurement saw something else than it promised", "run it again; if it repeats, report it with the output";
    UNPROVEN = "PT-0712", "the audit trail does not verify",
        "an entry, a hash or a signature is not what the others say it must be", "keep the file as it is and ask who could write to it";
    NO_LOGIN = "PT-0713", "nothing says who you are",
        "no token and no certificate was found",
        "sign in with `protem auth login`, or give `--token-file FILE`, or `--cert FILE --key FILE`; against `protem dev`, `--as NAME`";
    LOCAL_FILE = "PT-0714", "a local file cannot be read or written",
        "the operating system refused it", "check the path, its permissions and the free space";
    ENDED_EARLY = "PT-0715", "access ended before the command did",
        "the grant was revoked, ran out or lost its task", "`protem grant ID` says by whom and why";
    NOT_GRANTED = "PT-0716", "access was not granted",
        "the request was denied, lapsed or was withdrawn", "`protem grant ID` says by whom and why";
    STILL_PENDING = "PT-0717", "the request still waits for approval",
        "nobody has decided yet", "go on waiting with `protem wait GRANT`";
    PORTS = "PT-0718", "there is no address to listen at",
        "something else listens at every address that was tried, or it is none of this machine's",
        "stop what listens there, or give another address: `--listen`, or `broker.listen` and `broker.probes` of the settings";
    TLS_FILES = "PT-0720", "a certificate, key or CA file cannot be used",
        "no connection can be opened with it", "look at the files that `--cert`, `--key` and `--ca` (PROTEM_CERT, PROTEM_KEY, PROTEM_CA) name";
    NO_IDENTITY = "PT-0721", "no such identity is to be seen",
        "the bundle in force has none of that name, or it is not for you to see", "look at `protem identities`";
    USAGE = "PT-0719", "the arguments do not fit together",
        "one of them is missing, or contradicts another", "see `--help` of the command";
    SIGN_IN = "PT-0730", "the sign-in did not work",
        "the issuer, or what came back from it, is not as OpenID Connect says", "try `protem auth login` again; if it repeats, show this to whoever runs the issuer";
    SIGN_IN_REFUSED = "PT-0731", "the issuer refused the sign-in",
        "you or the issuer said no, or the client is not registered there as it should be", "try `protem auth login` again; the client must be public, with the redirect `http://127.0.0.1/callback` on any port";
    SIGN_IN_LATE = "PT-0732", "nobody signed in in time",
        "the page that was shown stayed open too long", "try `protem auth login` again";
    SIGN_IN_OVER = "PT-0733", "the sign-in has ended",
        "the token of `protem auth login` has expired and cannot be renewed", "sign in again with `protem auth login`";
    NO_ISSUER = "PT-0734", "there is no such place to sign in",
        "the broker's bundle names no such issuer for people", "give one that it names with `--issuer NAME`, or have one added to `issuers.toml`";
    CI_TOKEN = "PT-0735", "the CI system gives no id token",
        "its token service refused or did not answer", "give the job `permissions: id-token: write`, and look at the CI system's status";
    AUDIENCE = "PT-0736", "it is not clear whom the token must be for",
        "an audience that the broker names counts by itself only when it is the broker's own address, as a token for anybody else could be used there", "give the `audience` of the issuer in `issuers.toml` with `--audience` (PROTEM_AUDIENCE)";
    SPIFFE_AGENT = "PT-0745", "the SPIFFE agent does not answer",
        "nothing answers at the Workload API's socket, or what answers is no agent", "see that the agent runs and that `SPIFFE_ENDPOINT_SOCKET` (or `--spiffe-socket`) names its socket, and that this process may open it";
    NO_SVID = "PT-0746", "the SPIFFE agent gives this process no identity",
        "no registration entry fits this process, or the agent has not heard of it yet", "register the workload (`spire-server entry create`, say) with selectors that fit this process, and look at the agent's log; `--svid-hint` must be the hint of an entry";
    BAD_SVID = "PT-0747", "what the SPIFFE agent gave cannot be used",
        "it is no certificate with its key, or no token", "look at the agent's log and version; no other program must listen at its socket";
}
