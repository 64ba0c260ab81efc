//! `protem init`: a settings file and a bundle to start from.

use std::path::Path;

use protem_verify::codes::tool;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Screen;
use crate::config;
use crate::policy::example::example;

/// Writes `protem.toml` and `policies/` here. What is there already stays as it is.
///
/// # Errors
/// When both are there, or one cannot be written.
pub fn init(screen: &Screen) -> Result<Exit, Failure> {
    init_in(screen, Path::new("."))
}

fn init_in(screen: &Screen, folder: &Path) -> Result<Exit, Failure> {
    let (settings, policies) = (folder.join(config::FILE), folder.join("policies"));
    if settings.exists() && policies.exists() {
        let what = "protem.toml and policies/ are here already";
        return Err(Failure::of(Exit::Failed, tool::LOCAL_FILE, what)
            .because("nothing of yours is overwritten")
            .helps("go on with `protem serve --config protem.toml`"));
    }
    if settings.exists() {
        screen.say("  protem.toml is here already and stays as it is");
    } else {
        write(&settings, config::sample().as_bytes())?;
        screen.print("protem.toml   every setting, explained");
    }
    if policies.exists() {
        screen.say("  policies/ is here already and stays as it is");
    } else {
        for (name, text) in example().iter() {
            let path = policies.join(&**name);
            let parent = path.parent().unwrap_or(&policies);
            std::fs::create_dir_all(parent).map_err(|why| Failure::file(parent, &why))?;
            write(&path, text)?;
        }
        screen.print("policies/     an example bundle with its tests; make it yours");
    }
    screen.say("\nNext:");
    screen.say("  protem policy check                     find every mistake in policies/");
    screen.say("  protem serve --config protem.toml       run a broker with it");
    Ok(Exit::Done)
}

fn write(path: &Path, text: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|why| Failure::file(path, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Output;

    #[test]
    fn it_writes_what_is_not_there_and_nothing_else() {
        let screen = Screen::new(Output::Text);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("protem.toml"), "# mine").unwrap();
        init_in(&screen, folder.path()).unwrap();
        let kept = std::fs::read_to_string(folder.path().join("protem.toml")).unwrap();
        assert_eq!(kept, "# mine");
        assert!(folder.path().join("policies/catalog.toml").is_file());
        assert!(init_in(&screen, folder.path()).is_err());
    }

    #[test]
    fn what_it_writes_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        init_in(&Screen::new(Output::Text), folder.path()).unwrap();
        config::read(Some(&folder.path().join("protem.toml"))).unwrap();
    }
}
