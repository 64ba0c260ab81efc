//! Which task a command belongs to: the CI system's job and attempt, else a fresh one.

use data_encoding::BASE32_NOPAD;
use protem_clock::random;
use protem_proto::wire::v1;

use crate::cli::args_work::What;

/// The task that access is asked for.
#[must_use]
pub fn task(what: &What, env: &dyn Fn(&str) -> Option<String>) -> v1::Task {
    let found = from_ci(env);
    let (kind, url) = found.as_ref().map_or(("", ""), |_| ("ci-job", ""));
    let found_url = found.as_ref().map_or(url, |(_, url)| url.as_str()).to_owned();
    let id = what.task.clone().or_else(|| found.map(|(id, _)| id));
    v1::Task {
        id: id.unwrap_or_else(generated),
        kind: what.kind.clone().unwrap_or_else(|| kind.to_owned()),
        url: found_url,
    }
}

/// The environment of this process.
#[must_use]
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Id and page of the CI job that runs this. The attempt is part of the id: an ended task takes no further requests.
fn from_ci(env: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let (id, url) = if env("GITHUB_ACTIONS").as_deref() == Some("true") {
        let (repo, run) = (env("GITHUB_REPOSITORY")?, env("GITHUB_RUN_ID")?);
        let attempt = env("GITHUB_RUN_ATTEMPT").unwrap_or_else(|| "1".to_owned());
        let job = env("GITHUB_JOB")?;
        let server = env("GITHUB_SERVER_URL").unwrap_or_else(|| "https://github.com".to_owned());
        let url = format!("{server}/{repo}/actions/runs/{run}/attempts/{attempt}");
        // The jobs of a matrix share all of these, and run on a runner each.
        let runner = env("RUNNER_NAME").map(|name| format!("/{name}")).unwrap_or_default();
        (format!("github:{repo}/{run}/{attempt}/{job}{runner}"), url)
    } else if env("GITLAB_CI").as_deref() == Some("true") {
        // A retried job of GitLab is a new job with an id of its own.
        let (project, job) = (env("CI_PROJECT_PATH")?, env("CI_JOB_ID")?);
        (format!("gitlab:{project}/{job}"), env("CI_JOB_URL").unwrap_or_default())
    } else {
        return None;
    };
    Some((spelled(&id), url))
}

/// Within the alphabet and length of task ids; what is cut keeps its end, where run and attempt are.
fn spelled(id: &str) -> String {
    let known = |letter: char| letter.is_ascii_alphanumeric() || "._:/@-".contains(letter);
    let letters: Vec<char> = id.chars().map(|l| if known(l) { l } else { '-' }).collect();
    let skip = letters.len().saturating_sub(protem_verify::names::TASK_MAX);
    letters.into_iter().skip(skip).collect()
}

fn generated() -> String {
    format!("run-{}", BASE32_NOPAD.encode(&random::bytes::<10>()).to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(env: &[(&str, &str)], task: Option<&str>, id: &str, kind: &str) {
        let find = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let what = What {
            task: task.map(str::to_owned),
            kind: None,
            resource: "r".into(),
            scopes: vec!["s".into()],
            lifetime: None,
            purpose: String::new(),
            emergency: false,
        };
        let found = super::task(&what, &find);
        assert_eq!((found.id.as_str(), found.kind.as_str()), (id, kind));
        protem_verify::names::TaskId::try_from(found.id.as_str()).unwrap();
    }

    const GITHUB: &[(&str, &str)] = &[
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "shop/payments"),
        ("GITHUB_RUN_ID", "4711"),
        ("GITHUB_RUN_ATTEMPT", "2"),
        ("GITHUB_JOB", "deploy prod"),
    ];

    #[test]
    fn a_ci_job_names_its_attempt() {
        check(GITHUB, None, "github:shop/payments/4711/2/deploy-prod", "ci-job");
        let gitlab =
            [("GITLAB_CI", "true"), ("CI_PROJECT_PATH", "shop/payments"), ("CI_JOB_ID", "9")];
        check(&gitlab, None, "gitlab:shop/payments/9", "ci-job");
    }

    #[test]
    fn jobs_of_a_matrix_are_tasks_of_their_own() {
        let on = |runner| [GITHUB, &[("RUNNER_NAME", runner)]].concat();
        let id = |runner: &str| format!("github:shop/payments/4711/2/deploy-prod/{runner}");
        check(&on("GitHub Actions 7"), None, &id("GitHub-Actions-7"), "ci-job");
        check(&on("GitHub Actions 8"), None, &id("GitHub-Actions-8"), "ci-job");
    }

    #[test]
    fn a_flag_wins() {
        check(GITHUB, Some("INC-42"), "INC-42", "ci-job");
        check(&[], Some("INC-42"), "INC-42", "");
    }

    #[test]
    fn long_ids_keep_their_end() {
        assert_eq!(spelled(&"ä".repeat(300)).len(), 200);
        assert!(spelled(&format!("{}/7/1/job", "x".repeat(300))).ends_with("/7/1/job"));
    }

    #[test]
    fn without_ci_each_task_is_new() {
        assert_ne!(generated(), generated());
        assert!(generated().starts_with("run-"));
    }
}
