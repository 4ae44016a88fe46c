//! Experiments: many trainings that differ in one thing, run, stored and compared.
//!
//! A [`Trial`] is one training: a variant (a method, a criterion, ...) at a density with a seed. Every
//! trial ends as one [`Row`] in the folder of the experiment, written when it is finished and never
//! computed again, so that an experiment goes on where it was stopped, however that happened. Rows
//! become a [`Summary`] with means, standard deviations and paired differences, and that a Markdown
//! page with a plot.
//!
//! | file | what |
//! |---|---|
//! | `experiment.json` | settings that all rows have in common |
//! | `rows.jsonl` | one row per finished trial |
//! | `README.md`, `accuracy.svg` | the comparison, written anew from the rows |
//!
//! [`Bench`] trains, exports and measures a network for a trial; [`run`] does so for all of them,
//! several at a time.

mod arch;
mod bench;
mod criteria;
mod federated;
mod multiparty;
mod page;
mod plot;
mod rows;
mod runner;
mod search;
mod summary;

pub use arch::{
    ArchRow, Best, StagesSummary, Staging, evaluations_for_time, summarise_stages, write_arch_page,
};
pub use bench::{Bench, Measured};
pub use criteria::Teachers;
pub use federated::{Contest, DENSE, Point, Standing, standings, write_federated_page};
pub use multiparty::{PartiesSummary, summarise_parties, write_parties_page};
pub use page::{Page, write_page};
pub use rows::{ROWS_FILE, Row, Store, as_stored, read_rows};
pub use runner::{Event, Outcome, Work, run};
pub use search::{SearchRow, Way, WaySummary, summarise_searches, write_search_page};
pub use summary::{Cell, Comparison, Spread, Summary, Variant, summarise};

use serde::{Deserialize, Serialize};

/// One training of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What is compared, such as the method.
    pub variant: String,
    /// Density that is asked for.
    pub density: f64,
    /// Seed of the training.
    pub seed: u64,
}

impl Trial {
    /// A name for people and for the folder of the run.
    pub fn name(&self) -> String {
        let variant: String = self
            .variant
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        format!("{variant}-{}-{}", self.density, self.seed)
    }
}

/// A combination that the network cannot have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Impossible {
    /// What is compared.
    pub variant: String,
    /// Density that is asked for.
    pub density: f64,
    /// Why it is impossible.
    pub reason: String,
}
