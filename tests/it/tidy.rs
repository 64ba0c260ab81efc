//! What the house promises about itself: rooms, file shape, generated texts. Each check is shown to bite.

