//! `psld man`.

use crate::args::command;
use crate::report;
use clap::{Args, ValueHint};
use psld::io::NewFile;
use psld::{Error, Result, Status};
use std::fs;
use std::path::PathBuf;

#[derive(Args)]
pub struct ManArgs {
    /// A folder for psld.1 and a page for each command, instead of psld.1 on stdout
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
}

pub fn run(args: ManArgs) -> Result<()> {
    let Some(folder) = args.out else {
        return report::stdout(&page(whole())?);
    };
    fs::create_dir_all(&folder).map_err(|e| {
        Error::new(Status::WriteFailed, format!("{}: the folder cannot be made", folder.display())).source(e)
    })?;
    let whole = whole();
    let of_commands = whole.get_subcommands().map(|one| (format!("psld-{}", one.get_name()), one.clone()));
    for (name, command) in
        [("psld".to_owned(), whole.clone())].into_iter().chain(of_commands.collect::<Vec<_>>())
    {
        let page = page(command.name(&*name.clone().leak()))?;
        NewFile::write_with(&folder.join(format!("{name}.1")), |out| out.write_all(page.as_bytes()))?;
    }
    Ok(())
}

/// The command line without `help`, of which there is no page.
fn whole() -> clap::Command {
    command().disable_help_subcommand(true)
}

/// The manual page of one command.
fn page(command: clap::Command) -> Result<String> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command).source(concat!("psld ", env!("CARGO_PKG_VERSION")));
    man.render(&mut page)
        .map_err(|e| Error::new(Status::Internal, "the manual page cannot be made").source(e))?;
    let text = String::from_utf8(page)
        .map_err(|e| Error::new(Status::Internal, "the manual page is no UTF-8").source(e))?;
    // What a help says at its end.
    Ok(text.replace(".SH EXTRA", ".SH NOTES"))
}
