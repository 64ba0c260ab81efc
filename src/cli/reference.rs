//! What is generated from the command tree and the codes: the CLI reference, the error pages, the manual, completions.

use protem_verify::codes::{self, Code};

use crate::cli::args::{EVERYWHERE, tree};
use crate::cli::exit::{Exit, Failure, TABLE};

/// The CLI reference, docs/cli.md.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "<!-- Generated from the command tree: `just gen`. -->\n# Command line\n\n\
         `protem COMMAND --help` prints the same. Every flag has an environment variable; a flag wins over its variable, \
         that over `./protem.toml`, `$XDG_CONFIG_HOME/protem/` and `/etc/protem/`.\n\
         Of `[client]` only `output` is taken from `./protem.toml`, as a checkout may be anybody's.\n\n",
    );
    text.push_str(&format!("```text\n{TABLE}\n```\n"));
    let mut whole = tree();
    whole.build();
    text.push_str(
        "\n## Everywhere\nWhat each command takes that talks to a broker, beside its own.\n",
    );
    arguments(whole.get_arguments().filter(|arg| everywhere(arg)), &mut text);
    for command in whole.get_subcommands().filter(|command| !command.is_hide_set()) {
        describe(command, "protem", &mut text);
    }
    text
}

fn describe(command: &clap::Command, before: &str, text: &mut String) {
    let name = format!("{before} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let inner: Vec<&clap::Command> =
        command.get_subcommands().filter(|inner| !inner.is_hide_set()).collect();
    if !inner.is_empty() {
        text.push_str(&format!("\n## {name}\n{about}.\n"));
        inner.iter().for_each(|inner| describe(inner, &name, text));
        return;
    }
    text.push_str(&format!("\n## {name}\n{about}.\n\n"));
    let usage = command.clone().render_usage().to_string();
    text.push_str(&format!("```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim_end()));
    arguments(command.get_arguments().filter(|arg| !everywhere(arg)), text);
}

/// Whether an argument is one of those that hold for every command.
fn everywhere(arg: &clap::Arg) -> bool {
    arg.get_help_heading() == Some(EVERYWHERE)
}

fn arguments<'a>(args: impl Iterator<Item = &'a clap::Arg>, text: &mut String) {
    let shown = args.filter(|arg| !arg.is_hide_set());
    let own = shown.filter(|arg| !matches!(arg.get_long(), Some("help" | "version")));
    let rows: Vec<String> = own.map(row).collect();
    if !rows.is_empty() {
        text.push_str("\n| argument | variable | what it does |\n|---|---|---|\n");
        rows.iter().for_each(|row| text.push_str(row));
    }
}

fn row(arg: &clap::Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let takes = arg.get_action().takes_values();
    let value = value.filter(|_| takes).unwrap_or_default();
    let name = match arg.get_long() {
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
    let variable = if variable.is_empty() { String::new() } else { format!("`{variable}`") };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<String> = if takes {
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect()
    } else {
        Vec::new()
    };
    let default = defaults.join(", ");
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    format!("| `{}` | {variable} | {}{default} |\n", name.trim(), help.replace('|', "\\|"))
}

/// The error pages, docs/errors.md.
#[must_use]
pub fn errors_md() -> String {
    let mut text = String::from(
        "<!-- Generated from src/verify/codes: `just gen`. -->\n# Errors\n\n\
         Each answer that is not a success carries one of these codes; it never changes its meaning. \
         `protem explain-error CODE` prints an entry.\n",
    );
    for code in codes::all() {
        text.push_str(&format!(
            "\n## {}\n{}.\n\n- why: {}\n- help: {}\n",
            code.id, code.title, code.why, code.remedy
        ));
    }
    text
}

/// `protem explain-error CODE`; `json`: for machines.
///
/// # Errors
/// When there is no such code.
pub fn explain_error(id: Option<&str>, json: bool) -> Result<String, Failure> {
    let Some(id) = id else {
        if json {
            let all: Vec<serde_json::Value> = codes::all().into_iter().map(to_json).collect();
            return Ok(serde_json::Value::from(all).to_string());
        }
        let lines = codes::all().into_iter().map(|code| format!("{}  {}", code.id, code.title));
        return Ok(lines.collect::<Vec<_>>().join("\n"));
    };
    // `101`, `0101` and `PT-0101` all mean the same.
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    let code = codes::find(id).or_else(|| codes::find(&format!("PT-{digits:0>4}")));
    code.map(|code| if json { to_json(code).to_string() } else { entry(code) }).ok_or_else(|| {
        Failure {
            exit: Exit::NotFound,
            what: format!("there is no error code `{id}`"),
            why: "codes look like PT-0101".to_owned(),
            code: String::new(),
            help: "`protem explain-error` lists them all".to_owned(),
        }
    })
}

fn to_json(code: Code) -> serde_json::Value {
    serde_json::json!({"code": code.id, "title": code.title, "why": code.why, "help": code.remedy})
}

fn entry(code: Code) -> String {
    format!("{}  {}\n  why:  {}\n  help: {}", code.id, code.title, code.why, code.remedy)
}

/// The manual page: the command, and each of its commands.
#[must_use]
pub fn man() -> Vec<u8> {
    let mut page = Vec::new();
    // Writing into memory cannot fail.
    let _ = clap_mangen::Man::new(tree()).render(&mut page);
    let mut whole = tree();
    whole.build();
    for command in whole.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(command, "protem", &mut page);
    }
    page
}

/// A command's own part of the page: what holds everywhere stands there once.
fn section(command: &clap::Command, before: &str, page: &mut Vec<u8>) {
    let name = format!("{before} {}", command.get_name());
    let own = command.clone().display_name(name.clone()).bin_name(name.clone());
    let own = own.mut_args(|arg| if everywhere(&arg) { arg.hide(true) } else { arg });
    let man = clap_mangen::Man::new(own);
    let _ = man.render_name_section(page);
    let _ = man.render_synopsis_section(page);
    let _ = man.render_options_section(page);
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        section(inner, &name, page);
    }
}

/// Completions for a shell.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree(), "protem", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_names_commands_flags_and_variables() {
        let text = reference();
        for part in
            ["## protem run", "## protem audit export", "`PROTEM_RUN_SCOPE`", "`PROTEM_BROKER`"]
        {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("demo-job"));
        assert_eq!(text.matches("`PROTEM_BROKER`").count(), 1, "what holds everywhere stands once");
    }

    #[test]
    fn every_code_has_its_entry() {
        let text = errors_md();
        assert!(codes::all().iter().all(|code| text.contains(&format!("## {}\n", code.id))));
        assert!(explain_error(Some("701"), false).unwrap().contains("PT-0701"));
        assert_eq!(explain_error(Some("PT-9999"), true).unwrap_err().exit, Exit::NotFound);
        let one: serde_json::Value =
            serde_json::from_str(&explain_error(Some("pt-0101"), true).unwrap()).unwrap();
        assert_eq!(one["code"], "PT-0101");
        let all: Vec<serde_json::Value> =
            serde_json::from_str(&explain_error(None, true).unwrap()).unwrap();
        assert_eq!(all.len(), codes::all().len());
    }

    #[test]
    fn manual_and_completions_are_there() {
        let page = String::from_utf8(man()).unwrap();
        for part in ["protem run", "protem policy apply", "protem audit export"] {
            assert!(page.contains(&format!("\n{} \\-", part.replace('-', "\\-"))), "{part}");
        }
        assert_eq!(page.matches("JWT of an issuer that the bundle trusts").count(), 1);
        assert!(!completions(clap_complete::Shell::Bash).is_empty());
    }
}
