//! Several configurations of a board: each network runs on the one that suits it best.
//!
//! A search over [`Designs`] explores networks and configurations together. Depends on
//! [`crate::tables`].

use quasar_core::error::{Error, Result};

use crate::additive::{CostShares, Objective};
use crate::nsga2::{Cost, CostModel};
use crate::CostTable;

/// A configuration, and how its frame rate event by event compares with that of its table.
#[derive(Clone, Debug)]
pub struct Design {
    /// The costs of the space's networks.
    pub table: CostTable,
    /// The rate event by event over the closed form's, about.
    pub scale: f64,
}

/// Limits of a network, besides the buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Seconds of one frame alone.
    pub latency_s: Option<f64>,
    /// Joules of a frame.
    pub energy_j: Option<f64>,
}

/// A network on the configuration that suits it best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OnDesign {
    /// The configuration's number.
    pub design: usize,
    /// Frames a second: the closed form's times [`Design::scale`].
    pub fps: f64,
    /// The same of the board, with its processor ([`HostEstimate::limit`]).
    ///
    /// [`HostEstimate::limit`]: quasar_cost::estimate::HostEstimate::limit
    pub fps_with_host: f64,
    /// Seconds of one frame alone, in the closed form.
    pub latency_s: f64,
    /// Joules of a frame, if the board's file has powers.
    pub energy_j: Option<f64>,
    /// Blocks beyond the buffers, and the shares by which limits are exceeded: 0 if it fits.
    pub violation: f64,
}

impl OnDesign {
    /// Returns the rate by an objective: the higher the better. That of an unknown energy is
    /// infinite.
    pub fn rate(&self, objective: Objective) -> f64 {
        match objective {
            Objective::Period => self.fps,
            Objective::Latency => 1.0 / self.latency_s,
            Objective::Energy => 1.0 / self.energy_j.unwrap_or(0.0),
        }
    }
}

/// Configurations for one space.
#[derive(Clone, Debug)]
pub struct Designs {
    designs: Vec<Design>,
    limits: Limits,
}

impl Designs {
    /// Takes configurations of one space.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] without configurations, for those of different spaces, for scales
    /// or limits that are not positive, and for a limit of the energy where a board has no powers.
    pub fn new(designs: Vec<Design>, limits: Limits) -> Result<Self> {
        let invalid = |problem: &str| Err(Error::InvalidValue(problem.into()));
        let Some(first) = designs.first() else {
            return invalid("a search needs at least one hardware configuration");
        };
        if designs
            .iter()
            .any(|d| d.table.space() != first.table.space())
        {
            return invalid("the configurations' cost tables are of different spaces");
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !designs.iter().all(|design| positive(design.scale)) {
            return invalid("the scale of a configuration's rates must be a positive number");
        }
        let given = [limits.latency_s, limits.energy_j];
        if !given.iter().flatten().all(|&limit| positive(limit)) {
            return invalid("a limit of latency or energy must be a positive number");
        }
        if limits.energy_j.is_some() {
            for design in &designs {
                design.table.check_objective(Objective::Energy)?;
            }
        }
        Ok(Self { designs, limits })
    }

    /// Takes one configuration, without limits.
    pub fn one(table: CostTable) -> Self {
        Self {
            designs: vec![Design { table, scale: 1.0 }],
            limits: Limits::default(),
        }
    }

    /// Returns the configurations.
    pub fn designs(&self) -> &[Design] {
        &self.designs
    }

    /// Returns the limits.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns a network's costs on the configuration that holds it and makes most frames a second;
    /// if none holds it, on the one that comes closest. The genome must be one of the space.
    pub fn best(&self, genome: &[u8]) -> OnDesign {
        self.best_by(genome, Objective::Period)
    }

    /// Returns a network's costs on the configuration that holds it and is best by an objective; if
    /// none holds it, on the one that comes closest.
    fn best_by(&self, genome: &[u8], objective: Objective) -> OnDesign {
        let others = (1..self.designs.len()).map(|design| self.on(design, genome));
        let better = |a: OnDesign, b: OnDesign| {
            let closer = b.violation < a.violation;
            let faster = b.violation == a.violation && b.rate(objective) > a.rate(objective);
            if closer || faster {
                b
            } else {
                a
            }
        };
        others.fold(self.on(0, genome), better)
    }

    /// Returns a network's costs on one configuration.
    pub fn on(&self, number: usize, genome: &[u8]) -> OnDesign {
        let Design { table, scale } = &self.designs[number];
        let cost = table.cost(genome);
        let blocks = if cost.fits {
            0.0
        } else {
            table.misfits(genome) as f64
        };
        let energy_j = table.energy_j(&cost);
        let excess = |value: Option<f64>, limit: Option<f64>| match (value, limit) {
            (Some(value), Some(limit)) => (value / limit - 1.0).max(0.0),
            _ => 0.0,
        };
        let fps = cost.fps * scale;
        OnDesign {
            design: number,
            fps,
            fps_with_host: table.host().limit(fps, cost.transfers),
            latency_s: cost.latency_s,
            energy_j,
            violation: blocks
                + excess(Some(cost.latency_s), self.limits.latency_s)
                + excess(energy_j, self.limits.energy_j),
        }
    }

    /// Returns the network of most frames a second on any configuration, among those that are
    /// fastest on each, within the limits.
    ///
    /// # Errors
    /// [`Error::Infeasible`] if none of them is within the limits; that of [`CostTable::fastest`]
    /// if nothing fits any configuration.
    pub fn fastest(&self) -> Result<(Vec<u8>, OnDesign)> {
        let mut problem = None;
        let mut found: Vec<(Vec<u8>, OnDesign)> = Vec::new();
        for design in &self.designs {
            match design.table.fastest() {
                Ok((genome, _)) => {
                    let on = self.best(&genome);
                    found.push((genome, on));
                }
                Err(error) => problem = Some(error),
            }
        }
        let best = found.into_iter().min_by(|(_, a), (_, b)| {
            (a.violation.total_cmp(&b.violation)).then(b.fps.total_cmp(&a.fps))
        });
        match (best, problem) {
            (Some((genome, on)), _) if on.violation == 0.0 => Ok((genome, on)),
            (Some((_, on)), _) => Err(self.beyond_limits(&on)),
            (None, Some(problem)) => Err(problem),
            (None, None) => unreachable!("there is at least one configuration"),
        }
    }

    fn beyond_limits(&self, on: &OnDesign) -> Error {
        let has = |name: &str, value: Option<f64>, limit: Option<f64>, unit: &str| {
            let (value, limit) = (1000.0 * value?, 1000.0 * limit?);
            (value > limit).then(|| {
                format!("{name} of at most {limit} {unit} (the fastest has {value:.3} {unit})")
            })
        };
        let parts = [
            has("a latency", Some(on.latency_s), self.limits.latency_s, "ms"),
            has("an energy", on.energy_j, self.limits.energy_j, "mJ a frame"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        Error::Infeasible(format!(
            "no network was found with {}; raise the limit, or take a larger board",
            parts.join(" and ")
        ))
    }
}

impl CostModel for Designs {
    fn cost(&self, genome: &[u8], objective: Objective) -> Cost {
        let on = self.best_by(genome, objective);
        Cost {
            rate: on.rate(objective),
            violation: on.violation,
        }
    }

    fn check(&self, objective: Objective) -> Result<()> {
        let mut tables = self.designs.iter().map(|design| &design.table);
        tables.try_for_each(|table| table.check_objective(objective))
    }

    fn fastest(&self) -> Result<(Vec<u8>, f64)> {
        Self::fastest(self).map(|(genome, on)| (genome, on.fps))
    }

    fn shares(&self, objective: Objective) -> Vec<CostShares> {
        (self.designs.iter())
            .map(|Design { table, scale }| {
                let mut shares = table.shares(objective);
                if objective == Objective::Period {
                    shares.rate_of_one *= scale;
                }
                shares
            })
            .collect()
    }
}
