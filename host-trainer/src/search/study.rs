//! A study: everything that a search knows, in a database that any number of workers share.
//!
//! A study lives in an SQLite file or in a PostgreSQL database; both are reached by the same code. There is
//! no coordinator. A worker that wants a candidate locks the study, replays the past into its own
//! [`Optimiser`], asks it, stores the proposal as leased and unlocks. While it evaluates it renews the lease;
//! a candidate whose lease has run out is leased again. A result is accepted once, from the holder of the
//! lease: every candidate counts once, whatever dies.
//!
//! The revision numbers of proposals and results order them, so that the replay is exact: one worker
//! with one seed makes the same search whether it was interrupted or not.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::migrate::MigrateError;
use sqlx::{AnyConnection, AnyPool, Connection, Row};
use tokio::runtime::Runtime;

use super::optimiser::{Optimiser, Proposal};

/// Where a study is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a folder, as the file [`FILE`].
    Folder(PathBuf),
    /// In a PostgreSQL database. The part after `#` names one of its studies; without it, `main`.
    Url {
        /// Address without that part.
        url: String,
        /// Name of the study.
        name: String,
    },
}

/// Name of a study's file in its folder.
pub const FILE: &str = "study.db";

/// Name of a study that was not given one.
const MAIN: &str = "main";

impl std::str::FromStr for Place {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self::Folder(text.into()));
        }
        let (url, name) = text.split_once('#').unwrap_or((text, MAIN));
        Ok(Self::Url { url: url.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for Place {
    /// Without the password, if there is one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.join(FILE).display()),
            Self::Url { url, name } => {
                let host = url.rsplit_once('@').map_or(url.as_str(), |(_, host)| host);
                write!(f, "{}#{name}", host.trim_start_matches("postgres://"))
            }
        }
    }
}

/// What to do about a database that fails.
fn advice(cause: &sqlx::Error) -> &'static str {
    /// SQLite's result codes of a full disk, and of one that takes no more of a file; PostgreSQL's of a full one.
    const FULL: [&str; 3] = ["13", "778", "53100"];
    let code = cause.as_database_error().and_then(|error| error.code());
    match code.is_some_and(|code| FULL.contains(&&*code)) {
        true => "; make room on the disk and start the same command again, it goes on where it was",
        false => "",
    }
}

/// Why a study cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// The database does not answer, or the file cannot be opened.
    #[error("cannot open the study {place}: {cause}")]
    Unreachable {
        /// The study.
        place: Place,
        /// Why.
        cause: sqlx::Error,
    },
    /// Its tables have a form that this version does not know.
    #[error(
        "the study {place} was made by a newer version of niwaki (its tables have form {form}); \
         use that version, or another place"
    )]
    Newer {
        /// The study.
        place: Place,
        /// Number of the last change to the tables.
        form: i64,
    },
    /// Its tables cannot be brought into this version's form.
    #[error("cannot prepare the tables of the study {place}: {cause}")]
    Tables {
        /// The study.
        place: Place,
        /// Why.
        cause: MigrateError,
    },
    /// There is no such study.
    #[error("there is no study at {place}; `niwaki search` starts one")]
    Missing {
        /// The study.
        place: Place,
    },
    /// It was started with other settings.
    #[error(
        "the study {place} was started with other settings: {difference}. \
         Start the search with these settings, or with another --study"
    )]
    OtherSettings {
        /// The study.
        place: Place,
        /// What differs.
        difference: String,
    },
    /// A worker's own disk is full.
    #[error(
        "there is no room for a candidate's files: {cause}; make room, or set TMPDIR to a folder on a larger \
         disk, and start the same command again, it goes on where it was"
    )]
    DiskFull {
        /// Why.
        cause: String,
    },
    /// The database failed.
    #[error("the study {place} failed: {cause}{}", advice(cause))]
    Database {
        /// The study.
        place: Place,
        /// Why.
        cause: sqlx::Error,
    },
    /// A row does not hold what it should.
    #[error("the study {place} is damaged: {problem}")]
    Damaged {
        /// The study.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// The folder cannot be made.
    #[error("cannot make the folder {}: {cause}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl StudyError {
    /// Whether the database does not answer and may do so again, such as one that is started anew.
    pub fn is_outage(&self) -> bool {
        /// PostgreSQL's codes of a server that is stopped, has crashed, or does not take connections yet.
        const DOWN: [&str; 3] = ["57P01", "57P02", "57P03"];
        match self {
            Self::Database { cause: sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut, .. } => true,
            Self::Database { cause: sqlx::Error::Database(error), .. } => {
                error.code().is_some_and(|code| DOWN.contains(&&*code))
            }
            _ => false,
        }
    }
}

/// What has become of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// A worker evaluates it.
    Leased,
    /// It is evaluated.
    Done,
    /// Its evaluation ended with an error.
    Failed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// What a candidate turned out to be worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Objectives, all to be minimised.
    pub objectives: Vec<f64>,
    /// What else was found out, such as accuracies and sizes.
    pub details: serde_json::Value,
}

/// A genome that is or was evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Number in the study, from 1 in the order of proposals.
    pub id: i64,
    /// Its genome.
    pub proposal: Proposal,
    /// What has become of it.
    pub status: Status,
    /// Who evaluates it or did.
    pub worker: String,
    /// Which attempt at it this is, from 1.
    pub attempt: i64,
    /// What it is worth, once it is done.
    pub evaluation: Option<Evaluation>,
    /// Why its evaluation failed, if it did.
    pub error: Option<String>,
    /// Seconds that its evaluation took.
    pub seconds: Option<f64>,
    /// Revision at which it was proposed.
    pub asked: i64,
    /// Revision at which its result was accepted.
    pub told: Option<i64>,
}

/// What a worker is to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Lease {
    /// Evaluate this candidate.
    Evaluate(Box<Candidate>),
    /// Ask again later: others evaluate the last candidates.
    Wait,
    /// Stop: the study is complete.
    Complete,
}

/// What a worker is to do about something that all candidates share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It is made.
    Ready(Vec<u8>),
    /// Make it and [`provide`](Study::provide) it.
    Make,
    /// Another worker makes it: ask again later.
    Wait,
}

/// A study that is open.
#[derive(Debug)]
pub struct Study {
    runtime: Runtime,
    pool: AnyPool,
    place: Place,
}

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Study {
    /// Opens the study at a place, or starts one with these settings.
    ///
    /// # Errors
    /// When it cannot be reached, was made by a newer version, or was started with other settings.
    pub fn start(place: &Place, settings: &serde_json::Value) -> Result<Self, StudyError> {
        if let Place::Folder(folder) = place {
            std::fs::create_dir_all(folder)
                .map_err(|cause| StudyError::Folder { folder: folder.clone(), cause })?;
        }
        let study = Self::connect(place)?;
        let text = settings.to_string();
        let insert = sqlx::query(
            "INSERT INTO study (name, settings, revision) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
        );
        let insert = insert.bind(study.name().to_owned()).bind(text.clone());
        study.wait(insert.execute(&study.pool))?;
        let stored = study.settings()?;
        // Read as the stored ones are: not every decimal number comes back as it was.
        let settings = serde_json::from_str(&text).map_err(|error| study.damaged(error))?;
        match difference(&stored, &settings, "") {
            None => Ok(study),
            Some(difference) => Err(StudyError::OtherSettings { place: place.clone(), difference }),
        }
    }

    /// Opens a study that exists.
    ///
    /// # Errors
    /// When there is none, it cannot be reached, or was made by a newer version.
    pub fn open(place: &Place) -> Result<Self, StudyError> {
        if let Place::Folder(folder) = place
            && !folder.join(FILE).is_file()
        {
            return Err(StudyError::Missing { place: place.clone() });
        }
        let study = Self::connect(place)?;
        study.settings()?;
        Ok(study)
    }

    fn connect(place: &Place) -> Result<Self, StudyError> {
        sqlx::any::install_default_drivers();
        let url = match place {
            Place::Folder(folder) => sqlite_url(&folder.join(FILE)),
            Place::Url { url, .. } => url.clone(),
        };
        let unreachable = |cause| StudyError::Unreachable { place: place.clone(), cause };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unreachable(sqlx::Error::Io(error)))?;
        // SQLite writes one after the other, and proposals take a while.
        let patient = matches!(place, Place::Folder(_));
        // A pool would go on trying where the first answer tells what is wrong.
        let first = AnyConnection::connect(&url);
        let first = runtime.block_on(async { tokio::time::timeout(PATIENCE, first).await });
        drop(first.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(unreachable)?);
        let options = AnyPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
        let options = options.after_connect(move |connection, _| {
            Box::pin(async move {
                if patient {
                    sqlx::query("PRAGMA busy_timeout = 600000").execute(connection).await?;
                }
                Ok(())
            })
        });
        let pool = runtime.block_on(options.connect(&url)).map_err(unreachable)?;
        let study = Self { runtime, pool, place: place.clone() };
        study.runtime.block_on(sqlx::migrate!().run(&study.pool)).map_err(|cause| match cause {
            MigrateError::VersionMissing(form) | MigrateError::VersionMismatch(form) => {
                StudyError::Newer { place: place.clone(), form }
            }
            cause => StudyError::Tables { place: place.clone(), cause },
        })?;
        Ok(study)
    }

    fn name(&self) -> &str {
        match &self.place {
            Place::Folder(_) => MAIN,
            Place::Url { name, .. } => name,
        }
    }

    fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StudyError> {
        let result = self.runtime.block_on(future);
        result.map_err(|cause| StudyError::Database { place: self.place.clone(), cause })
    }

    fn damaged(&self, problem: impl std::fmt::Display) -> StudyError {
        StudyError::Damaged { place: self.place.clone(), problem: problem.to_string() }
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What it was started with.
    ///
    /// # Errors
    /// When the database fails or has no study of this name.
    pub fn settings(&self) -> Result<serde_json::Value, StudyError> {
        let query = sqlx::query("SELECT settings FROM study WHERE name = $1");
        let row = self.wait(query.bind(self.name().to_owned()).fetch_optional(&self.pool))?;
        let row = row.ok_or_else(|| StudyError::Missing { place: self.place.clone() })?;
        let text: String = row.try_get(0).map_err(|error| self.damaged(error))?;
        serde_json::from_str(&text).map_err(|error| self.damaged(format!("settings: {error}")))
    }

    /// Number of candidates that it is to have.
    ///
    /// # Errors
    /// When the database fails.
    pub fn budget(&self) -> Result<usize, StudyError> {
        let query = sqlx::query("SELECT budget FROM study WHERE name = $1");
        let row = self.wait(query.bind(self.name().to_owned()).fetch_one(&self.pool))?;
        let budget: i64 = row.try_get(0).map_err(|error| self.damaged(error))?;
        Ok(usize::try_from(budget).unwrap_or(0))
    }

    /// Lets it have at least so many candidates.
    ///
    /// # Errors
    /// When the database fails.
    pub fn raise_budget(&self, candidates: usize) -> Result<(), StudyError> {
        let candidates = i64::try_from(candidates).unwrap_or(i64::MAX);
        let update = sqlx::query("UPDATE study SET budget = $1 WHERE name = $2 AND budget < $3");
        let update = update.bind(candidates).bind(self.name().to_owned()).bind(candidates);
        self.wait(update.execute(&self.pool)).map(|_| ())
    }

    /// Asks for something that all candidates share; to make it, a worker gets a lease of so many seconds.
    ///
    /// # Errors
    /// When the database fails.
    pub fn part(&self, name: &str, worker: &str, seconds: f64) -> Result<Part, StudyError> {
        let _context = self.runtime.enter();
        let study = self.name().to_owned();
        self.wait(async {
            let mut transaction = self.pool.begin().await?;
            revise(&mut transaction, &study).await?;
            // Not before the lock is held, which may have been waited for.
            let now = now();
            let query = sqlx::query(
                "SELECT worker, lease_until, ready, bytes FROM part WHERE study = $1 AND name = $2",
            );
            let query = query.bind(study.clone()).bind(name.to_owned());
            let row = query.fetch_optional(&mut *transaction).await?;
            if let Some(row) = &row {
                if row.try_get::<i64, _>("ready")? == 1 {
                    return Ok(Part::Ready(row.try_get("bytes")?));
                }
                let maker: String = row.try_get("worker")?;
                let lost = row.try_get::<f64, _>("lease_until")? < now || is_gone(&maker);
                if maker != worker && !lost {
                    return Ok(Part::Wait);
                }
            }
            let statement = match row {
                None => {
                    "INSERT INTO part (worker, lease_until, study, name, ready, bytes) \
                     VALUES ($1, $2, $3, $4, 0, $5)"
                }
                Some(_) => {
                    "UPDATE part SET worker = $1, lease_until = $2, bytes = $5 \
                     WHERE study = $3 AND name = $4"
                }
            };
            let write = sqlx::query(statement)
                .bind(worker.to_owned())
                .bind(now + seconds)
                .bind(study)
                .bind(name.to_owned())
                .bind(Vec::<u8>::new());
            write.execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(Part::Make)
        })
    }

    /// Renews the lease of a part that a worker makes.
    ///
    /// # Errors
    /// When the database fails.
    pub fn renew_part(&self, name: &str, worker: &str, seconds: f64) -> Result<(), StudyError> {
        let update = sqlx::query(
            "UPDATE part SET lease_until = $1 \
             WHERE study = $2 AND name = $3 AND worker = $4 AND ready = 0",
        );
        let update = update
            .bind(now() + seconds)
            .bind(self.name().to_owned())
            .bind(name.to_owned())
            .bind(worker.to_owned());
        self.wait(update.execute(&self.pool)).map(|_| ())
    }

    /// Stores a part. Of several workers that made it, the first one counts.
    ///
    /// # Errors
    /// When the database fails.
    pub fn provide(&self, name: &str, bytes: &[u8]) -> Result<(), StudyError> {
        let update = sqlx::query(
            "UPDATE part SET ready = 1, bytes = $1 WHERE study = $2 AND name = $3 AND ready = 0",
        );
        let update = update.bind(bytes.to_vec()).bind(self.name().to_owned()).bind(name.to_owned());
        self.wait(update.execute(&self.pool)).map(|_| ())
    }

    /// A part that is made, if it is.
    ///
    /// # Errors
    /// When the database fails.
    pub fn ready_part(&self, name: &str) -> Result<Option<Vec<u8>>, StudyError> {
        let query =
            sqlx::query("SELECT bytes FROM part WHERE study = $1 AND name = $2 AND ready = 1");
        let query = query.bind(self.name().to_owned()).bind(name.to_owned());
        let row = self.wait(query.fetch_optional(&self.pool))?;
        row.map(|row| row.try_get(0).map_err(|error| self.damaged(error))).transpose()
    }

    /// All candidates in the order of their proposals.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn candidates(&self) -> Result<Vec<Candidate>, StudyError> {
        let rows =
            self.wait(async { rows(&mut *self.pool.acquire().await?, self.name()).await })?;
        self.read(&rows)
    }

    fn read(&self, rows: &[AnyRow]) -> Result<Vec<Candidate>, StudyError> {
        rows.iter().map(|row| candidate(row).map_err(|problem| self.damaged(problem))).collect()
    }

    /// Leases a candidate to a worker for so many seconds: one whose lease has run out, else, where the
    /// study has fewer than `budget`, a new one that `ask` proposes in view of all others.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn lease(
        &self,
        worker: &str,
        seconds: f64,
        budget: usize,
        ask: impl FnOnce(&[Candidate]) -> Option<Proposal>,
    ) -> Result<Lease, StudyError> {
        // A transaction that an error drops is rolled back by the runtime.
        let _context = self.runtime.enter();
        let name = self.name().to_owned();
        // Everything between the first statement, which locks, and the commit happens at once.
        let (mut transaction, revision, rows) = self.wait(async {
            let mut transaction = self.pool.begin().await?;
            let revision = revise(&mut transaction, &name).await?;
            let rows = rows(&mut transaction, &name).await?;
            Ok((transaction, revision, rows))
        })?;
        // Not before the lock is held, which may have been waited for.
        let now = now();
        let candidates = self.read(&rows)?;
        let leases = rows.iter().map(|row| row.try_get::<f64, _>("lease_until").unwrap_or(0.0));
        let lost = candidates.iter().zip(leases).find(|(candidate, until)| {
            candidate.status == Status::Leased && (*until < now || is_gone(&candidate.worker))
        });
        if let Some((candidate, _)) = lost {
            let mut candidate = candidate.clone();
            candidate.worker = worker.to_owned();
            candidate.attempt += 1;
            let update = sqlx::query(
                "UPDATE candidate SET worker = $1, attempt = $2, lease_until = $3 \
                 WHERE study = $4 AND id = $5",
            );
            let update = update
                .bind(worker.to_owned())
                .bind(candidate.attempt)
                .bind(now + seconds)
                .bind(name)
                .bind(candidate.id);
            self.wait(async {
                update.execute(&mut *transaction).await?;
                transaction.commit().await
            })?;
            return Ok(Lease::Evaluate(Box::new(candidate)));
        }
        let proposal = if candidates.len() < budget { ask(&candidates) } else { None };
        let Some(proposal) = proposal else {
            self.wait(transaction.rollback())?;
            let busy = candidates.iter().any(|candidate| candidate.status == Status::Leased);
            return Ok(if busy { Lease::Wait } else { Lease::Complete });
        };
        let candidate = Candidate {
            id: candidates.last().map_or(1, |last| last.id + 1),
            proposal,
            status: Status::Leased,
            worker: worker.to_owned(),
            attempt: 1,
            evaluation: None,
            error: None,
            seconds: None,
            asked: revision,
            told: None,
        };
        let proposal = serde_json::to_string(&candidate.proposal);
        let insert = sqlx::query(
            "INSERT INTO candidate \
             (study, id, proposal, asked, status, worker, attempt, lease_until) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        let insert = insert
            .bind(name)
            .bind(candidate.id)
            .bind(proposal.map_err(|error| self.damaged(error))?)
            .bind(revision)
            .bind(Status::Leased.name())
            .bind(worker.to_owned())
            .bind(candidate.attempt)
            // The proposal may have taken a while.
            .bind(self::now() + seconds);
        self.wait(async {
            insert.execute(&mut *transaction).await?;
            transaction.commit().await
        })?;
        Ok(Lease::Evaluate(Box::new(candidate)))
    }

    /// Renews the lease of a candidate. Returns whether the worker still holds it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn renew(&self, candidate: &Candidate, seconds: f64) -> Result<bool, StudyError> {
        let update = sqlx::query(
            "UPDATE candidate SET lease_until = $1 \
             WHERE study = $2 AND id = $3 AND worker = $4 AND attempt = $5 AND status = $6",
        );
        let update = update
            .bind(now() + seconds)
            .bind(self.name().to_owned())
            .bind(candidate.id)
            .bind(candidate.worker.clone())
            .bind(candidate.attempt)
            .bind(Status::Leased.name());
        Ok(self.wait(update.execute(&self.pool))?.rows_affected() == 1)
    }

    /// Stores what a candidate is worth, with its files, or why its evaluation failed. Returns whether the
    /// worker still held the lease; if it did not, nothing is stored.
    ///
    /// # Errors
    /// When the database fails.
    pub fn finish(
        &self,
        candidate: &Candidate,
        result: Result<&Evaluation, &str>,
        artefacts: &[(&str, &[u8])],
        seconds: f64,
    ) -> Result<bool, StudyError> {
        let name = self.name().to_owned();
        let status = if result.is_ok() { Status::Done } else { Status::Failed };
        let evaluation = result.ok().map(serde_json::to_string).transpose();
        let evaluation = evaluation.map_err(|error| self.damaged(error))?;
        let update = sqlx::query(
            "UPDATE candidate SET status = $1, result = $2, error = $3, seconds = $4, told = $5 \
             WHERE study = $6 AND id = $7 AND worker = $8 AND attempt = $9 AND status = $10",
        );
        self.wait(async {
            let mut transaction = self.pool.begin().await?;
            let revision = revise(&mut transaction, &name).await?;
            let update = update
                .bind(status.name())
                .bind(evaluation)
                .bind(result.err().map(str::to_owned))
                .bind(seconds)
                .bind(revision)
                .bind(name.clone())
                .bind(candidate.id)
                .bind(candidate.worker.clone())
                .bind(candidate.attempt)
                .bind(Status::Leased.name());
            if update.execute(&mut *transaction).await?.rows_affected() != 1 {
                return Ok(false);
            }
            for (file, bytes) in artefacts {
                let insert = sqlx::query(
                    "INSERT INTO artefact (study, candidate, name, bytes) VALUES ($1, $2, $3, $4)",
                );
                let insert = insert.bind(name.clone()).bind(candidate.id);
                let insert = insert.bind((*file).to_owned()).bind(bytes.to_vec());
                insert.execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(true)
        })
    }

    /// Adds a file to a candidate, or replaces it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn attach(&self, candidate: i64, name: &str, bytes: &[u8]) -> Result<(), StudyError> {
        let insert = sqlx::query(
            "INSERT INTO artefact (study, candidate, name, bytes) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (study, candidate, name) DO UPDATE SET bytes = excluded.bytes",
        );
        let insert = insert.bind(self.name().to_owned()).bind(candidate);
        let insert = insert.bind(name.to_owned()).bind(bytes.to_vec());
        self.wait(insert.execute(&self.pool)).map(|_| ())
    }

    /// A file of a candidate.
    ///
    /// # Errors
    /// When the database fails.
    pub fn artefact(&self, candidate: i64, name: &str) -> Result<Option<Vec<u8>>, StudyError> {
        let query = sqlx::query(
            "SELECT bytes FROM artefact WHERE study = $1 AND candidate = $2 AND name = $3",
        );
        let query = query.bind(self.name().to_owned()).bind(candidate).bind(name.to_owned());
        let row = self.wait(query.fetch_optional(&self.pool))?;
        row.map(|row| row.try_get(0).map_err(|error| self.damaged(error))).transpose()
    }
}

/// Tells an optimiser the past: proposals and results in the order in which they were made.
pub fn replay(optimiser: &mut Optimiser, candidates: &[Candidate]) {
    let asked = candidates.iter().map(|candidate| (candidate.asked, candidate, false));
    let told = candidates.iter().filter_map(|candidate| Some((candidate.told?, candidate, true)));
    let mut events: Vec<_> = asked.chain(told).collect();
    events.sort_by_key(|(revision, _, _)| *revision);
    for (_, candidate, result) in events {
        match (&candidate.evaluation, result) {
            (_, false) => optimiser.recall(&candidate.proposal),
            (Some(evaluation), true) => {
                optimiser.tell(&candidate.proposal, &evaluation.objectives);
            }
            (None, true) => {}
        }
    }
}

/// Name of a worker of this process, the given one of several: computer, process and when it began.
pub fn worker_name(number: usize) -> String {
    let host = host();
    let id = std::process::id();
    format!("{host}:{id}:{}:{number}", now() as u64)
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

/// Whether a worker ran on this computer and does so no more. Its lease need not run out then.
fn is_gone(worker: &str) -> bool {
    let mut parts = worker.split(':');
    let here = parts.next() == Some(&host());
    let process = parts.next().and_then(|id| id.parse::<u32>().ok());
    let proc = Path::new("/proc");
    here && proc.join("self").exists()
        && process.is_some_and(|id| !proc.join(id.to_string()).exists())
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// An SQLite file's address: made if it is not there, and patient with other processes.
fn sqlite_url(file: &Path) -> String {
    let mut path = String::new();
    for byte in file.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("sqlite://{path}?mode=rwc")
}

/// Raises a study's revision, which locks it until the transaction ends.
async fn revise(connection: &mut AnyConnection, name: &str) -> Result<i64, sqlx::Error> {
    let update = sqlx::query("UPDATE study SET revision = revision + 1 WHERE name = $1");
    update.bind(name.to_owned()).execute(&mut *connection).await?;
    let query = sqlx::query("SELECT revision FROM study WHERE name = $1");
    query.bind(name.to_owned()).fetch_one(connection).await?.try_get(0)
}

async fn rows(connection: &mut AnyConnection, name: &str) -> Result<Vec<AnyRow>, sqlx::Error> {
    let query = sqlx::query(
        "SELECT id, proposal, asked, told, status, worker, attempt, lease_until, result, error, seconds \
         FROM candidate WHERE study = $1 ORDER BY id",
    );
    query.bind(name.to_owned()).fetch_all(connection).await
}

fn candidate(row: &AnyRow) -> Result<Candidate, String> {
    fn get<'r, T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>>(
        row: &'r AnyRow,
        column: &str,
    ) -> Result<T, String> {
        row.try_get(column).map_err(|error| error.to_string())
    }
    fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, String> {
        serde_json::from_str(text).map_err(|error| format!("{what}: {error}"))
    }
    let evaluation: Option<String> = get(row, "result")?;
    let status: String = get(row, "status")?;
    Ok(Candidate {
        id: get(row, "id")?,
        proposal: parse("proposal", &get::<String>(row, "proposal")?)?,
        status: [Status::Leased, Status::Done, Status::Failed]
            .into_iter()
            .find(|known| known.name() == status)
            .ok_or_else(|| format!("a candidate has the status `{status}`"))?,
        worker: get(row, "worker")?,
        attempt: get(row, "attempt")?,
        evaluation: evaluation.map(|text| parse("result", &text)).transpose()?,
        error: get(row, "error")?,
        seconds: get(row, "seconds")?,
        asked: get(row, "asked")?,
        told: get(row, "told")?,
    })
}

/// The first place where two settings differ.
fn difference(stored: &serde_json::Value, given: &serde_json::Value, path: &str) -> Option<String> {
    use serde_json::Value::Object;
    if let (Object(a), Object(b)) = (stored, given) {
        let keys = a.keys().chain(b.keys());
        let null = serde_json::Value::Null;
        return keys.into_iter().find_map(|key| {
            let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
            difference(a, b, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") })
        });
    }
    (stored != given).then(|| format!("`{path}` is {stored} there and {given} here"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::genome::{Gene, Space};
    use super::super::optimiser::tests::Anything;
    use super::super::optimiser::{Algorithm, Settings};
    use super::*;

    fn optimiser() -> Optimiser {
        let settings =
            Settings { algorithm: Algorithm::Moead, objectives: 2, population: 4, seed: 7 };
        let space = Space::new(vec![Gene::Level(20), Gene::Level(20)]).unwrap();
        Optimiser::new(space, settings, vec![vec![19, 19]])
    }

    fn ask(candidates: &[Candidate]) -> Option<Proposal> {
        let mut optimiser = optimiser();
        replay(&mut optimiser, candidates);
        optimiser.ask(&Anything)
    }

    fn evaluate(candidate: &Candidate) -> Evaluation {
        let [a, b] = [0, 1].map(|gene| f64::from(candidate.proposal.genome[gene]));
        Evaluation { objectives: vec![a + b, 40.0 - a], details: json!({ "accuracy": 0.5 }) }
    }

    const BUDGET: usize = 12;

    fn work(study: &Study, worker: &str, count: usize) {
        for _ in 0..count {
            let Lease::Evaluate(candidate) = study.lease(worker, 60.0, BUDGET, ask).unwrap() else {
                return;
            };
            let evaluation = evaluate(&candidate);
            let model = candidate.proposal.genome.iter().map(|gene| *gene as u8);
            let model: Vec<u8> = model.collect();
            let files = [("model.niwaki", model.as_slice())];
            assert!(study.finish(&candidate, Ok(&evaluation), &files, 0.1).unwrap());
        }
    }

    fn folder(temporary: &tempfile::TempDir, name: &str) -> Place {
        Place::Folder(temporary.path().join(name))
    }

    #[test]
    fn an_interrupted_search_is_the_undisturbed_one() {
        let temporary = tempfile::tempdir().unwrap();
        let settings = json!({ "net": "lenet", "seed": 7 });
        let plain = Study::start(&folder(&temporary, "plain"), &settings).unwrap();
        work(&plain, "a", BUDGET);

        let place = folder(&temporary, "with space, %");
        for count in [3, 0, 4, BUDGET] {
            let study = Study::start(&place, &settings).unwrap();
            work(&study, "a", count);
            // Killed in the middle of an evaluation: the lease is 0 seconds long.
            if let Lease::Evaluate(lost) = study.lease("a", 0.0, BUDGET, ask).unwrap() {
                assert_eq!(lost.status, Status::Leased);
            }
        }
        let study = Study::open(&place).unwrap();
        let essence = |study: &Study| {
            let candidates = study.candidates().unwrap().into_iter();
            candidates.map(|c| (c.id, c.proposal, c.status, c.evaluation)).collect::<Vec<_>>()
        };
        assert_eq!(essence(&study), essence(&plain));
        assert_eq!(essence(&study).len(), BUDGET);
        assert_eq!(study.lease("a", 60.0, BUDGET, ask).unwrap(), Lease::Complete);
        let first = study.candidates().unwrap().remove(0);
        assert_eq!(first.proposal.genome, [19, 19]);
        assert_eq!(study.artefact(first.id, "model.niwaki").unwrap().unwrap(), [19, 19]);
    }

    #[test]
    fn a_result_counts_once_and_from_the_holder_of_the_lease() {
        let temporary = tempfile::tempdir().unwrap();
        let study = Study::start(&folder(&temporary, "study"), &json!({})).unwrap();
        let lease = |worker: &str| match study.lease(worker, 0.0, 1, ask).unwrap() {
            Lease::Evaluate(candidate) => *candidate,
            other => panic!("{other:?}"),
        };
        let slow = lease("slow");
        std::thread::sleep(Duration::from_millis(5));
        let quick = lease("quick");
        assert_eq!((slow.id, slow.attempt, quick.attempt), (quick.id, 1, 2));
        assert!(!study.renew(&slow, 60.0).unwrap());
        assert!(study.renew(&quick, 60.0).unwrap());
        let other = study.lease("third", 60.0, 1, ask).unwrap();
        assert_eq!(other, Lease::Wait);
        let evaluation = evaluate(&slow);
        assert!(!study.finish(&slow, Ok(&evaluation), &[], 1.0).unwrap());
        assert!(study.finish(&quick, Err("out of memory"), &[], 1.0).unwrap());
        assert!(!study.finish(&quick, Ok(&evaluation), &[], 1.0).unwrap());
        let candidates = study.candidates().unwrap();
        assert_eq!(candidates.len(), 1);
        assert_eq!(candidates[0].status, Status::Failed);
        assert_eq!(candidates[0].error.as_deref(), Some("out of memory"));
        assert_eq!(study.lease("third", 60.0, 1, ask).unwrap(), Lease::Complete);
    }

    #[test]
    fn a_part_is_made_once() {
        let temporary = tempfile::tempdir().unwrap();
        let study = Study::start(&folder(&temporary, "study"), &json!({})).unwrap();
        assert_eq!(study.part("base", "a", 60.0).unwrap(), Part::Make);
        assert_eq!(study.part("base", "b", 60.0).unwrap(), Part::Wait);
        assert_eq!(study.ready_part("base").unwrap(), None);
        study.provide("base", b"first").unwrap();
        study.provide("base", b"second").unwrap();
        assert_eq!(study.part("base", "b", 60.0).unwrap(), Part::Ready(b"first".to_vec()));
        // Its maker is silent for too long, or renews in time.
        assert_eq!(study.part("net", "a", 0.0).unwrap(), Part::Make);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(study.part("net", "b", 0.0).unwrap(), Part::Make);
        study.renew_part("net", "b", 60.0).unwrap();
        assert_eq!(study.part("net", "a", 60.0).unwrap(), Part::Wait);

        for (asked, budget) in [(5, 5), (3, 5), (8, 8)] {
            study.raise_budget(asked).unwrap();
            assert_eq!(study.budget().unwrap(), budget);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let temporary = tempfile::tempdir().unwrap();
        let place = folder(&temporary, "study");
        let missing = Study::open(&place).unwrap_err().to_string();
        assert!(missing.contains("there is no study at"), "{missing}");

        let study = Study::start(&place, &json!({ "search": { "net": "lenet" } })).unwrap();
        let other = Study::start(&place, &json!({ "search": { "net": "mlp" } })).unwrap_err();
        let text = other.to_string();
        assert!(text.contains("`search.net` is \"lenet\" there and \"mlp\" here"), "{text}");

        let newer = "INSERT INTO _sqlx_migrations \
                     (version, description, success, checksum, execution_time) \
                     VALUES (99, 'from the future', true, x'00', 0)";
        study.wait(sqlx::query(newer).execute(&study.pool)).unwrap();
        drop(study);
        let text = Study::open(&place).unwrap_err().to_string();
        assert!(text.contains("newer version of niwaki"), "{text}");

        std::fs::write(temporary.path().join("study").join(FILE), b"not a database at all")
            .unwrap();
        let text = Study::open(&place).unwrap_err().to_string();
        assert!(text.contains("study.db"), "{text}");

        let place: Place = "postgres://me:secret@127.0.0.1:1/none#x".parse().unwrap();
        let text = Study::start(&place, &json!({})).unwrap_err().to_string();
        assert!(text.contains("127.0.0.1:1/none#x") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn processes_share_a_file() {
        let temporary = tempfile::tempdir().unwrap();
        let place = folder(&temporary, "study");
        drop(Study::start(&place, &json!({})).unwrap());
        std::thread::scope(|scope| {
            for worker in ["a", "b", "c", "d"] {
                let place = &place;
                scope.spawn(move || work(&Study::open(place).unwrap(), worker, BUDGET));
            }
        });
        let candidates = Study::open(&place).unwrap().candidates().unwrap();
        assert_eq!(candidates.len(), BUDGET);
        assert!(candidates.iter().all(|c| c.status == Status::Done && c.attempt == 1));
    }
}
