//! Giving access back: `complete` and `return`.

use protem_proto::wire::v1;

use crate::cli::args::Global;
use crate::cli::args_work::{CompleteArgs, ReturnArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{find, show};

/// `protem complete TASK`.
///
/// # Errors
/// When there is no such task of the caller's.
pub async fn complete(global: &Global, args: &CompleteArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let request = v1::CompleteTaskRequest {
        task_id: args.task.clone(),
        outcome: args.outcome.clone(),
        wait: Some(show::to_wire(args.wait)).filter(|_| !args.wait.is_zero()),
    };
    let answer = client.access().complete_task(request).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("CompleteTaskResponse", &answer, false)?;
        return Ok(Exit::Done);
    }
    let count = answer.ended.len();
    let word = if count == 1 { "grant" } else { "grants" };
    screen.print(format!("`{}` is complete; {count} {word} ended", args.task));
    for receipt in &answer.enforcement {
        screen.print(show::receipt(&screen, receipt));
    }
    Ok(Exit::Done)
}

/// `protem return GRANT`.
///
/// # Errors
/// When there is no such grant of the caller's.
pub async fn give_back(global: &Global, args: &ReturnArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let grant_id = find::grant(&client, &args.grant).await?;
    let request = v1::ReturnGrantRequest { grant_id, note: args.note.clone() };
    let answer = client.access().return_grant(request).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("ReturnGrantResponse", &answer, false)?;
    } else {
        let grant = answer.grant.unwrap_or_default();
        screen.print(format!("{} is {}", grant.id, show::state(&grant)));
    }
    Ok(Exit::Done)
}
