//! Codes PT-02xx: what came over the wire cannot be read.

crate::codes! {
    MALFORMED = "PT-0201", "a field is not what it should be",
        "a value is missing, out of range, too long or spelled in a way that names are not", "correct the fields that the answer names";
    UNKNOWN_NAME = "PT-0202", "there is no such name",
        "the bundle in force defines no resource, scope, identity or gateway of this name", "look for the name that the answer suggests, or add it to the bundle";
    TOO_LARGE = "PT-0203", "the message is too large",
        "a message holds at most 64 KiB, and 16 MiB where a bundle is sent", "send less at once";
    UNDECODABLE = "PT-0204", "the message cannot be decoded",
        "the bytes are not the protobuf message that this method takes, or a text is not UTF-8", "generate the client anew from the broker's proto files or its reflection";
    NOT_BUILT = "PT-0205", "this version does not do that",
        "the method belongs to the contract and is not served yet", "use what the answer suggests, or a newer version";
    RATE_EXCEEDED = "PT-0206", "too many requests",
        "the identity asks more often than its tier's `rate` allows, or a caller was refused too often what ends others' access", "wait as long as the answer says, or have the tier's `rate` raised; look up what to end before you ask for it";
    BUSY = "PT-0207", "the broker is busy",
        "as many calls are in flight as the broker takes at once, in all or of this caller or, of who has not signed in, from this address", "wait as long as the answer says, with jitter, and try again";
    TOO_SLOW = "PT-0208", "the call took too long",
        "a call is answered within 5 seconds, one of who has not signed in within 1, or given up; what it had begun is finished all the same", "repeat it, and a request for access with the same request_id: the answer will be the true one";
    TOO_MANY_STREAMS = "PT-0209", "too many streams",
        "a caller may hold a limited number of streams open, to follow what happens or to hold tasks", "close those that nothing reads";
    NO_BINDING = "PT-0210", "credentials cannot be bound to a key yet",
        "this version has neither DPoP nor client certificates", "leave `proof_key` out";
    UNKNOWN_METHOD = "PT-0211", "there is no such method",
        "the broker serves no method of this path", "list the services by reflection";
    DEFECT = "PT-0212", "the broker failed in itself",
        "a defect ended the call; nothing of it was half done", "try again, and report it with the broker's log";
    FOREIGN_TOKEN = "PT-0213", "the text is no credential",
        "a leaked credential is a compact JWT of this broker", "send the credential's full text";
    TOO_MANY_CONNECTIONS = "PT-0214", "too many connections",
        "a caller may hold a limited number of connections open, and workloads together leave some to gateways and people", "let jobs share a connection, close those that nothing uses, or have the tier's `active_max` raised";
    APPROVES_TOO_OFTEN = "PT-0215", "too many approvals",
        "a person approves a limited number of requests a minute, so that none is approved unread", "wait as long as the answer says; a no is never counted";
}
