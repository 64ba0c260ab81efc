//! Codes PT-03xx: bundles, and what policy refuses.

crate::codes! {
    BAD_FILE = "PT-0301", "a bundle's file cannot be read",
        "it is not UTF-8 or not TOML, or has a key or a value that has no meaning there", "correct it where the message points";
    TOO_LARGE = "PT-0302", "the bundle is too large",
        "a bundle, and what is in it, has limits, so that none can exhaust a broker", "take out what is no longer needed, or split regions";
    STRAY_FILE = "PT-0303", "a file has no place in a bundle",
        "a bundle is `catalog.toml`, `identities.toml`, `identities/*.toml`, `people.toml`, `issuers.toml`, `*.cedar`, `tests/*.toml` and key sets that `issuers.toml` names",
        "rename it or move it out of the folder";
    BAD_NAME = "PT-0304", "a name is not spelled as names are",
        "names are lower case, digits and `. _ / -`, scopes also `:`", "rename it";
    BAD_VALUE = "PT-0305", "a value is out of range or cannot be read",
        "durations are like `1h 30m`, rates like `50/s`, dates like `2027-03-01`, each within limits", "write what the message says";
    UNKNOWN_REFERENCE = "PT-0306", "the bundle does not define what is named",
        "a tier, class, resource, issuer, secret or team must exist to be named", "correct the name, or define it";
    NO_OWNER = "PT-0307", "an owner is missing",
        "every identity, resource, issuer and secret has a business and a technical owner (NHI1)", "name both: `owner = { business = \"group:…\", technical = \"group:…\" }`";
    UNKNOWN_OWNER = "PT-0308", "an owner does not exist",
        "an owner is a group or person of the bundle", "correct the name, or add the group to `people.toml`";
    NO_PURPOSE = "PT-0309", "a purpose is missing",
        "what nobody can explain, nobody can review", "write `purpose = \"…\"`";
    NO_END = "PT-0310", "an end is missing",
        "every identity has a `review_by`, every secret `created`, `rotate_every` and `expires`", "write the date";
    NO_OPERATIONS = "PT-0311", "a scope has no operations",
        "a scope that allows nothing cannot be enforced", "list them: `operations = [\"GET /v1/orders\"]`";
    BAD_OPERATION = "PT-0312", "an operation cannot be read",
        "an operation is a method and a path, `GET /v1/orders/{id}`; a gRPC method is `POST /package.Service/Method`", "write it so";
    SHARED_AUDIENCE = "PT-0313", "two resources have one audience",
        "a credential for one would count at the other", "give each resource its own `audience`";
    TIER_LIFETIMES = "PT-0314", "a tier's lifetimes contradict each other",
        "`default_lifetime` and `credential` are at most `max_lifetime`", "shorten them, or raise `max_lifetime`";
    NOT_YET = "PT-0315", "the bundle asks for what does not exist yet",
        "binding to a key, ES256 and status lists are not part of this version, and a promise that is not kept is worse than none", "leave it out";
    BAD_CLAIM = "PT-0316", "a template claim is not allowed",
        "names hold a `/` and are never registered ones; values are constants, `{identity.team}`, `{task.id}` and `{login.CLAIM}`", "rename it, or correct the placeholder";
    WIDE_LOGIN = "PT-0317", "a login is too wide",
        "anybody can get a token of this issuer, so a claim must pin the owner", "pin `repository_id` and `repository_owner_id` (GitHub) or `project_id` and `namespace_id` (GitLab)";
    SHARED_LOGIN = "PT-0318", "two identities share a login",
        "a caller must be exactly one identity", "add a claim that tells them apart";
    CEDAR_SYNTAX = "PT-0319", "a policy cannot be read",
        "it is not Cedar", "correct it where the message points; `protem policy schema` prints what there is";
    CEDAR_INVALID = "PT-0320", "a policy does not fit the schema",
        "every policy is validated strictly, and a warning counts as an error", "correct it where the message points; `protem policy schema` prints what there is";
    NO_TEMPLATES = "PT-0321", "policy templates are not used",
        "what nobody links decides nothing", "write a policy in place of the template";
    NO_ID = "PT-0322", "a policy has no `@id`",
        "verdicts, tests and audits name policies by it", "write `@id(\"…\")` before it";
    DUPLICATE_ID = "PT-0323", "two policies have one `@id`",
        "verdicts, tests and audits name policies by it", "rename one";
    UNKNOWN_ANNOTATION = "PT-0324", "an annotation is unknown",
        "a misspelled annotation would silently not limit anything", "use `@id`, `@approvals`, `@decide_within`, `@remind`, `@then`, `@owners`, `@mode`, `@max_lifetime` or `@max_staleness`";
    MISPLACED_ANNOTATION = "PT-0325", "an annotation has no meaning there",
        "approval rules belong to permits of `request`, `@owners` to permits of `approve`, limits to permits of access", "move it to the policy that it is about";
    BAD_ANNOTATION = "PT-0326", "an annotation's value cannot be read",
        "the value is out of range or of another form", "write what the message says";
    ZERO_APPROVALS = "PT-0327", "a policy asks for zero approvals",
        "what needs no approval is `issue`", "write a number from 1, or permit `issue`";
    UNCONSTRAINED_PERMIT = "PT-0328", "a permit has no principal or resource constraint",
        "it would permit everyone, or on everything", "name who and what: `principal in Team::\"…\"`, `resource in Resource::\"…\"`";
    UNKNOWN_ENTITY = "PT-0329", "a policy names what the bundle does not define",
        "a policy about nothing never matches", "correct the name, or define it";
    UNKNOWN_APPROVERS = "PT-0330", "an approver group does not exist",
        "requests that wait for nobody lapse", "correct the name, or add the group to `people.toml`";
    NOBODY_ADMINISTERS = "PT-0331", "nobody may administer",
        "a bundle that nobody may replace locks everyone out", "permit `administer` on `Broker::\"protem\"` to a group";
    CASE_FAILED = "PT-0332", "a test case fails",
        "the policies decide otherwise than the case expects", "correct the policy, or the case";
    BAD_CASE = "PT-0333", "a test case cannot be run",
        "it names what does not exist, or lacks what its action needs", "correct it where the message points";
    REVIEW_OVERDUE = "PT-0334", "an identity's review is overdue",
        "after its `review_by` it gets no new grants", "have its owners decide, then set a new date or remove it";
    SECRET_OVERDUE = "PT-0335", "a secret must be rotated",
        "it is older than its `rotate_every`", "rotate it and set `created`";
    SECRET_EXPIRED = "PT-0336", "a secret has expired",
        "its `expires` has passed", "revoke it as its `revoke` says and remove it, or replace it";
    UNREACHABLE_SCOPE = "PT-0337", "nobody may get a scope",
        "no policy permits `issue`, `request` or `emergency` for it", "permit it to someone, or remove it";
    UNTESTED_POLICY = "PT-0338", "a policy decides no test case",
        "a rule that no case shows may not do what its author thinks", "add a case that it decides";
    NO_LOGIN = "PT-0339", "an identity has no login",
        "nobody can ever be it", "add a `login`, or remove the identity";
    UNMANAGED_SECRET = "PT-0340", "a secret is not under control",
        "it was found and is known, not yet managed", "bring it under control, then set `status = \"managed\"`";
    BAD_ISSUER = "PT-0341", "an issuer cannot be trusted as written",
        "its `iss` must be unique, its key set a file of the bundle or discovered, and people need a `name` claim", "write what the message says";
    EMPTY_LOGIN = "PT-0342", "a login or group matches everybody",
        "without a claim it is everyone's of that issuer", "name the claims that must match";
    NOT_PERMITTED = "PT-0350", "no policy permits it",
        "what no policy permits is refused", "ask for what the remedy names, or have the bundle changed";
    FORBIDDEN = "PT-0351", "a policy forbids it",
        "a forbid wins over every permit", "see the policies of the verdict; their owners can change them";
    POLICY_ERROR = "PT-0352", "a policy failed while it was evaluated",
        "a policy that cannot be evaluated might have forbidden it", "have the named policy corrected";
    UNKNOWN_IDENTITY = "PT-0353", "the identity is not in the bundle",
        "the bundle in force does not have it", "have it added to the inventory";
    UNKNOWN_RESOURCE = "PT-0354", "the resource is not in the bundle",
        "the bundle in force does not have it", "check the name";
    UNKNOWN_SCOPE = "PT-0355", "the resource has no such scope",
        "the bundle in force does not have it", "check the name";
    REVIEW_PASSED = "PT-0356", "the identity's review is overdue",
        "after its `review_by` an identity gets no new grants", "have its owners renew it in the inventory";
    NO_BINDING = "PT-0357", "credentials cannot be bound to a key yet",
        "binding is not part of this version", "ask without a `proof_key`";
    PERSON_UNKNOWN = "PT-0358", "the person behind the request is unknown",
        "what needs approval must not be approved by the one who asks, and no `[person]` has the account that the login names", "add the account to a `[person]` of `people.toml`";
    WRONG_REGION = "PT-0359", "not in this region",
        "the identity or the resource belongs to other regions", "ask that region's broker";
    LOGIN_CHANGED = "PT-0360", "the login is no longer the identity's",
        "the bundle in force does not match the login to the identity any more", "sign in as the inventory says";
    CLAIM_MISSING = "PT-0361", "a claim of the credential cannot be filled",
        "the resource's claim template needs what the login does not say", "sign in with a token that has the claim";
    INPUT_UNREADABLE = "PT-0362", "the recorded input cannot be read",
        "what was recorded of the request is damaged or of another version", "ask again";
    NO_EMERGENCY = "PT-0363", "no policy permits the emergency",
        "break-glass is a permission of its own", "ask without `--emergency`";
    PURPOSE_REQUIRED = "PT-0364", "an emergency needs a purpose",
        "everyone who was skipped is told why", "say why: `--purpose \"…\"`";
    OWN_REQUEST = "PT-0365", "one may not decide one's own request",
        "neither the requester's people nor the identity's owners count as its approvers", "ask another approver";
    GROUP_ISSUER = "PT-0366", "a group does not say whose word counts",
        "with several issuers for people, each could put its own people into the group by writing the claim", "name the one whose claims count: `issuer = \"corp\"`";
    FINDING_ABSENT = "PT-0367", "a policy waits for a finding that is never made",
        "no finding has this name, so the policy is as if it were never so, and a case that sets it tries nothing", "name one of those that `protem policy schema` lists";
    NOBODY_DECIDES = "PT-0368", "a request that nobody can decide",
        "policy lets somebody ask for the scope, and no `approve` policy lets anybody decide: each request waits until it lapses", "permit a group to `approve` it, or do not let it be requested";
    SEVERAL_ACCOUNTS = "PT-0369", "one person, several accounts of one issuer",
        "who is in a group is known only of the account that signs in; as the other one may be in the group that owns an identity, its owner or not, this person decides on nothing of it", "keep one account of them at that issuer, let other people decide, or permit it to owners: `@owners(\"may\")`";
    EMERGENCY_UNTOLD = "PT-0370", "an emergency of which nobody is told",
        "an `emergency` policy gives access without those who would have decided, and no group of them has a webhook to hear of it", "give such a group a `notify`, or list it in the `groups` of a webhook in the broker's settings";
}
