# One-line recipes; logic lives in tests or in protem.

# what CI runs
all:
    tests/run
# format, lints, tests
check:
    cargo fmt --check && cargo clippy --workspace --all-targets -- -D warnings && cargo test --workspace
# the simulation; `just sim 17` replays one seed and prints its history
sim seed="":
    PROTEM_SIM_SEED={{seed}} cargo test --test it simulation -- --nocapture
# writes the generated texts anew
gen:
    PROTEM_GEN=1 cargo test --test it generated
# licences, advisories, sources
deny:
    cargo deny --config .deny.toml check
# does every guard have a test that bites
mutants:
    cargo mutants -p protem-core -p protem-verify
# which numbers this machine gives
bench:
    cargo build --release && target/release/protem bench issue
