//! Codes PT-05xx: the world broke.

crate::codes! {
    STORE = "PT-0501", "the store failed",
        "a read or write of the journal failed; nothing was changed", "try again; look at the broker's log, the disk's free space and its health";
    UNKNOWN = "PT-0502", "nobody knows whether it was stored",
        "the store failed while it committed; the broker finds out before it goes on", "repeat the call with the same request_id: the answer will be the true one";
    ROLLED_BACK = "PT-0503", "the journal went back",
        "the store holds less than was acknowledged, as after restoring a backup", "start from the newest copy, or fence all older access with `protem recover --new-epoch`";
    DAMAGED = "PT-0504", "the journal is damaged",
        "an entry is not what its hash says", "run `protem audit verify` and restore the store from a backup";
    IN_USE = "PT-0505", "another process works on the store",
        "an embedded store has one broker at a time", "stop the other broker, or choose another data folder";
    FOREIGN = "PT-0506", "the file is not a protem journal",
        "the data folder names a file that something else made", "choose another data folder";
    NEWER_SCHEMA = "PT-0507", "a newer protem made this journal",
        "this version does not know the store's schema", "run the newer version";
    CLOCK = "PT-0508", "the clock cannot be trusted",
        "the wall clock stands before the journal's last event, or stepped by more than 2 seconds", "set this machine's clock; the broker goes on when the clocks agree, or after a restart";
    STOPPING = "PT-0509", "the broker is stopping",
        "it finishes what it began and takes nothing new", "try again at once: another broker, or the restarted one, answers";
    BUSY = "PT-0510", "no room",
        "as many commands wait for a turn as may; nothing was begun", "try again after the time that the answer names";
    NO_PRIVATE_KEY = "PT-0511", "the signing key is not here",
        "the journal names a signing key whose private half is not in the key folder", "put the key folder back, or wait until the broker's own next key is in force";
    KEY_FOLDER = "PT-0512", "the key folder cannot be used",
        "it, or a file in it, is missing, damaged or readable by others", "give it mode 0700 and its files 0600, owned by the broker's user";
    SELF_CHECK = "PT-0513", "a credential failed its own check",
        "what was signed is not what the journal records; it was not handed out", "look at the broker's log and the machine's memory; report it";
    SUBSCRIPTIONS = "PT-0514", "too many subscriptions",
        "this caller follows the feed as often as it may", "close one, or give each group of replicas its own gateway name";
    CHECKPOINT_AHEAD = "PT-0515", "somebody saw more than the journal holds",
        "a signed checkpoint shows a later state of this journal, as after restoring a backup", "start from the newest copy, or fence all older access with `protem recover --new-epoch`";
    BUNDLE = "PT-0516", "the bundle has errors",
        "the broker starts only with a bundle that passes its checks", "run `protem policy check` on the folder and mend what it names";
    OTHER_ISSUER = "PT-0517", "the journal is another issuer's",
        "the configured issuer is not the one that the journal was made for", "set the issuer back, or use another data folder";
    DEV_JOURNAL = "PT-0518", "the journal is a trial's",
        "`protem dev` made it, and its callers proved nothing", "use another data folder for `protem serve`";
    ANCHOR = "PT-0519", "the anchor file cannot be used",
        "it cannot be read or written, or its signature does not hold", "mend the file's place and mode, or restore it; remove it only when you know that the journal is whole";
    LOADING = "PT-0520", "the broker is loading its state",
        "it has just started and reads its journal; gateways follow it already", "try again after the time that the answer names";
}
