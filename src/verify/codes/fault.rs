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
}
