//! Two objectives, both maximised: domination, crowding and hypervolume of fronts.
//!
//! Depends on nothing. Sources: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist
//! multiobjective genetic algorithm: NSGA-II", IEEE Trans. Evol. Comput. 6(2), 2002 (ranks,
//! constrained domination, crowding); Zitzler and Thiele 1999 (hypervolume).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A point of the plane of objectives. No value is NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// First objective: a rate that the cost gives, such as modelled frames a second.
    pub rate: f64,
    /// Second objective: accuracy, or a score in its place.
    pub score: f64,
    /// The violation of the constraints; 0 is feasible.
    pub violation: f64,
}

impl Point {
    /// Compares by Deb's constrained domination: feasible before infeasible, of two infeasible
    /// points the smaller violation, of two feasible ones the point that is no worse in both
    /// objectives and better in one.
    pub fn dominates(&self, other: &Self) -> bool {
        if self.violation > 0.0 || other.violation > 0.0 {
            return self.violation < other.violation;
        }
        self.rate >= other.rate
            && self.score >= other.score
            && (self.rate > other.rate || self.score > other.score)
    }
}

/// Returns a number that is ordered as `total_cmp` orders floats, and faster to compare.
fn ascending(value: f64) -> u64 {
    let bits = value.to_bits();
    // The order of negative floats is reversed.
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

/// Returns the fronts of a set, best first, each sorted by falling `rate` (infeasible ones: in
/// order of index). O(n log n).
///
/// Feasible points are swept by falling `rate`: every point that could dominate the next one has
/// been seen, and does so in a given front if the front's best score is not below the point's. Best
/// scores fall from front to front, so a binary search finds the point's front.
pub fn fronts(points: &[Point]) -> Vec<Vec<usize>> {
    let (mut feasible, mut infeasible) = (Vec::with_capacity(points.len()), Vec::new());
    for (i, point) in points.iter().enumerate() {
        if point.violation > 0.0 {
            infeasible.push((ascending(point.violation), i));
        } else {
            feasible.push((!ascending(point.rate), !ascending(point.score), i));
        }
    }
    feasible.sort_unstable();
    infeasible.sort_unstable();
    let mut fronts: Vec<Vec<usize>> = Vec::new();
    let mut best: Vec<f64> = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    for &(_, _, i) in &feasible {
        let point = &points[i];
        let front = match last {
            Some((j, front)) if points[j] == *point => front,
            _ => best.partition_point(|&score| score >= point.score),
        };
        if front == fronts.len() {
            fronts.push(Vec::new());
            best.push(point.score);
        }
        best[front] = point.score;
        fronts[front].push(i);
        last = Some((i, front));
    }
    fronts.extend(
        infeasible
            .chunk_by(|a, b| a.0 == b.0)
            .map(|equal| equal.iter().map(|&(_, i)| i).collect()),
    );
    fronts
}

/// Returns the crowding distances of one front of [`fronts`], in its order: for each objective the
/// distance between the two neighbours over the front's range; infinite at both ends. Infeasible
/// fronts are not crowded: all 0.
pub fn crowding(points: &[Point], front: &[usize]) -> Vec<f64> {
    let Some(scale) = Scale::of(points, front) else {
        return vec![0.0; front.len()];
    };
    let last = front.len() - 1;
    (0..front.len())
        .map(|k| {
            if k == 0 || k == last {
                f64::INFINITY
            } else {
                scale.gap(&points[front[k - 1]], &points[front[k + 1]])
            }
        })
        .collect()
}

/// Returns the `keep` points of a front that cover it best, in its order. Removes the most crowded
/// point, computes its neighbours' distances anew, and so on (Kukkonen and Deb 2006). This spreads
/// the rest more evenly than distances computed once.
pub fn thin(points: &[Point], front: &[usize], keep: usize) -> Vec<usize> {
    if keep >= front.len() {
        return front.to_vec();
    }
    let Some(scale) = Scale::of(points, front) else {
        return front[..keep].to_vec();
    };
    let n = front.len();
    let mut before: Vec<usize> = (0..n).map(|k| k.wrapping_sub(1)).collect();
    let mut after: Vec<usize> = (1..=n).collect();
    let mut distance = crowding(points, front);
    let mut heap: BinaryHeap<Reverse<Crowded>> =
        (0..n).map(|k| Reverse(Crowded(distance[k], k))).collect();
    let mut kept = vec![true; n];
    let mut left = n;
    while left > keep {
        // Every kept point has an entry with its present distance.
        let Some(Reverse(Crowded(d, k))) = heap.pop() else {
            break;
        };
        if !kept[k] || d.to_bits() != distance[k].to_bits() {
            continue;
        }
        kept[k] = false;
        left -= 1;
        let (b, a) = (before[k], after[k]);
        if b < n {
            after[b] = a;
        }
        if a < n {
            before[a] = b;
        }
        for m in [b, a] {
            if m < n && before[m] < n && after[m] < n {
                distance[m] = scale.gap(&points[front[before[m]]], &points[front[after[m]]]);
                heap.push(Reverse(Crowded(distance[m], m)));
            }
        }
    }
    (0..n).filter(|&k| kept[k]).map(|k| front[k]).collect()
}

/// Distance and place in the front; ordered, so that ties have the same result on every machine.
#[derive(PartialEq)]
struct Crowded(f64, usize);

impl Eq for Crowded {}

impl PartialOrd for Crowded {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Crowded {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// One over the range of each objective in a front.
struct Scale {
    rate: f64,
    score: f64,
}

impl Scale {
    /// Returns the scale of a front; `None` if the front is empty or infeasible.
    fn of(points: &[Point], front: &[usize]) -> Option<Self> {
        let (first, last) = (&points[*front.first()?], &points[*front.last()?]);
        if first.violation > 0.0 {
            return None;
        }
        // A front without extent in an objective is not crowded in it.
        let over = |range: f64| if range > 0.0 { 1.0 / range } else { 0.0 };
        Some(Self {
            rate: over(first.rate - last.rate),
            score: over(last.score - first.score),
        })
    }

    fn gap(&self, faster: &Point, slower: &Point) -> f64 {
        (faster.rate - slower.rate) * self.rate + (slower.score - faster.score) * self.score
    }
}

/// The non-dominated feasible points of everything that was added, sorted by rising rate and so by
/// falling score.
///
/// Of points with equal objectives the first one that was added stays.
#[derive(Clone, Debug, Default)]
pub struct Front {
    entries: Vec<(f64, f64, u32)>,
}

impl Front {
    /// Adds a point with the caller's number for it.
    pub fn add(&mut self, point: &Point, id: u32) {
        if point.violation > 0.0 {
            return;
        }
        let at = self.entries.partition_point(|e| e.0 < point.rate);
        if self.entries.get(at).is_some_and(|e| e.1 >= point.score) {
            return;
        }
        // At most one entry has the same rate; it and slower ones with no better score are
        // dominated.
        let end = at + usize::from(self.entries.get(at).is_some_and(|e| e.0 == point.rate));
        let start = self.entries[..at].partition_point(|e| e.1 > point.score);
        self.entries
            .splice(start..end, [(point.rate, point.score, id)]);
    }

    /// Returns `(rate, score, id)` by rising rate.
    pub fn entries(&self) -> &[(f64, f64, u32)] {
        &self.entries
    }

    /// Returns the area that a point would add to what the front dominates above `reference`.
    pub fn gain(&self, rate: f64, score: f64, reference: (f64, f64)) -> f64 {
        let mut at = self.entries.partition_point(|e| e.0 < rate);
        let (mut right, mut area) = (rate, 0.0);
        // The best score at this rate or more.
        let mut height = self.entries.get(at).map_or(reference.1, |e| e.1);
        while height < score && right > reference.0 {
            let left = match at {
                0 => reference.0,
                _ => self.entries[at - 1].0.max(reference.0),
            };
            area += (right - left) * (score - height.max(reference.1)).max(0.0);
            if at == 0 {
                break;
            }
            at -= 1;
            (right, height) = (left, self.entries[at].1);
        }
        area
    }

    /// Returns the entry of the best score among points of at least `rate`.
    pub fn best(&self, rate: f64) -> Option<(f64, f64, u32)> {
        let at = self.entries.partition_point(|e| e.0 < rate);
        self.entries.get(at).copied()
    }

    /// Returns the area that the front dominates above `reference`; see [`hypervolume`].
    pub fn hypervolume(&self, reference: (f64, f64)) -> f64 {
        let mut area = 0.0;
        let mut slower = reference.0;
        for &(rate, score, _) in &self.entries {
            if rate > slower && score > reference.1 {
                area += (rate - slower) * (score - reference.1);
                slower = rate;
            }
        }
        area
    }
}

/// Chooses up to `most` feasible points, one after the other, each of which adds most to the area
/// that `front` and the points chosen before dominate above `reference`; of equals the first. Stops
/// when no point adds anything.
///
/// A point's gain never rises while others are added, so only the point that promises most is
/// looked at again.
pub fn improving(
    front: &Front,
    reference: (f64, f64),
    points: &[Point],
    most: usize,
) -> Vec<usize> {
    let mut front = front.clone();
    let gain = |front: &Front, i: usize| front.gain(points[i].rate, points[i].score, reference);
    let mut heap: BinaryHeap<(Gain, Reverse<usize>)> = (0..points.len())
        .filter(|&i| points[i].violation == 0.0)
        .map(|i| (Gain(gain(&front, i)), Reverse(i)))
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < most {
        let Some((Gain(promised), Reverse(i))) = heap.pop() else {
            break;
        };
        let now = gain(&front, i);
        if now <= 0.0 {
            continue;
        }
        if now < promised {
            heap.push((Gain(now), Reverse(i)));
            continue;
        }
        front.add(&points[i], u32::MAX);
        chosen.push(i);
    }
    chosen
}

/// An area, ordered.
#[derive(PartialEq)]
struct Gain(f64);

impl Eq for Gain {}

impl PartialOrd for Gain {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Gain {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Returns the area of the plane that `(rate, score)` points dominate above `reference`: exact, by
/// a sweep.
///
/// Points that are not better than the reference in both objectives add nothing.
pub fn hypervolume(points: &[(f64, f64)], reference: (f64, f64)) -> f64 {
    let mut front = Front::default();
    for &(rate, score) in points {
        let point = Point {
            rate,
            score,
            violation: 0.0,
        };
        front.add(&point, 0);
    }
    front.hypervolume(reference)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(rate: f64, score: f64, violation: f64) -> Point {
        Point {
            rate,
            score,
            violation,
        }
    }

    /// Points on a coarse grid, so that ties are common.
    fn points() -> impl Strategy<Value = Vec<Point>> {
        let value = (0u8..8).prop_map(f64::from);
        let violation = prop_oneof![4 => Just(0.0), 1 => (1u8..4).prop_map(f64::from)];
        proptest::collection::vec((value.clone(), value, violation), 0..60)
            .prop_map(|points| points.into_iter().map(|(f, s, v)| point(f, s, v)).collect())
    }

    /// Ranks by the definition: removes the points that nothing dominates, and repeats.
    fn ranks_by_definition(points: &[Point]) -> Vec<usize> {
        let mut rank = vec![usize::MAX; points.len()];
        for level in 0.. {
            let left: Vec<usize> = (0..points.len())
                .filter(|&i| rank[i] == usize::MAX)
                .collect();
            if left.is_empty() {
                break;
            }
            for &i in &left {
                if !left.iter().any(|&j| points[j].dominates(&points[i])) {
                    rank[i] = level;
                }
            }
        }
        rank
    }

    proptest! {
        #[test]
        fn a_gain_is_the_difference_of_hypervolumes(
            points in points(), more in points(), reference in (0u8..4, 0u8..4),
        ) {
            let reference = (f64::from(reference.0), f64::from(reference.1));
            let mut front = Front::default();
            for point in &points {
                front.add(point, 0);
            }
            for new in more.iter().filter(|point| point.violation == 0.0) {
                let mut with = front.clone();
                with.add(new, 1);
                let gain = front.gain(new.rate, new.score, reference);
                prop_assert_eq!(gain, with.hypervolume(reference) - front.hypervolume(reference));
            }
        }

        #[test]
        fn each_point_chosen_adds_most(points in points(), more in points(), most in 0usize..6) {
            let reference = (0.0, 0.0);
            let mut front = Front::default();
            for point in &points {
                front.add(point, 0);
            }
            let chosen = improving(&front, reference, &more, most);
            prop_assert!(chosen.len() <= most);
            for &place in &chosen {
                let gains = more.iter().map(|p| match p.violation {
                    0.0 => front.gain(p.rate, p.score, reference),
                    _ => 0.0,
                });
                let best = gains.fold(0.0, f64::max);
                let new = &more[place];
                prop_assert!(best > 0.0 && front.gain(new.rate, new.score, reference) == best);
                front.add(new, 1);
            }
        }

        #[test]
        fn fronts_are_those_of_the_definition(points in points()) {
            let fronts = fronts(&points);
            let mut rank = vec![usize::MAX; points.len()];
            for (level, front) in fronts.iter().enumerate() {
                prop_assert!(!front.is_empty());
                for &i in front {
                    rank[i] = level;
                }
            }
            prop_assert_eq!(rank, ranks_by_definition(&points));
        }

        #[test]
        fn the_archive_front_is_the_first_front(points in points()) {
            let mut front = Front::default();
            for (i, point) in points.iter().enumerate() {
                front.add(point, i as u32);
            }
            let mut expected: Vec<(f64, f64)> = points
                .iter()
                .filter(|p| p.violation == 0.0 && !points.iter().any(|q| q.dominates(p)))
                .map(|p| (p.rate, p.score))
                .collect();
            expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
            expected.dedup();
            let found: Vec<(f64, f64)> = front.entries().iter().map(|e| (e.0, e.1)).collect();
            prop_assert_eq!(found, expected);
            for (_, _, id) in front.entries() {
                let same = points.iter().position(|p| *p == points[*id as usize]);
                prop_assert_eq!(same, Some(*id as usize), "the first of equal points stays");
            }
        }

        #[test]
        fn hypervolume_counts_unit_squares(points in points(), rate in 0u8..4, score in 0u8..4) {
            let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.rate, p.score)).collect();
            let reference = (f64::from(rate), f64::from(score));
            let mut squares = 0;
            for x in rate..8 {
                for y in score..8 {
                    let (right, top) = (f64::from(x) + 1.0, f64::from(y) + 1.0);
                    squares += u32::from(pairs.iter().any(|p| p.0 >= right && p.1 >= top));
                }
            }
            prop_assert_eq!(hypervolume(&pairs, reference), f64::from(squares));
        }

        #[test]
        fn thinning_keeps_the_ends_and_the_number(points in points(), share in 0.0f64..1.0) {
            for front in fronts(&points) {
                let keep = (share * front.len() as f64) as usize;
                let kept = thin(&points, &front, keep);
                prop_assert_eq!(kept.len(), keep);
                prop_assert!(kept.iter().all(|i| front.contains(i)));
                if keep >= 2 && points[front[0]].violation == 0.0 {
                    prop_assert_eq!(kept[0], front[0]);
                    prop_assert_eq!(kept.last(), front.last());
                }
            }
        }
    }

    #[test]
    fn crowding_is_debs() {
        let points = [
            point(10.0, 0.0, 0.0),
            point(6.0, 5.0, 0.0),
            point(5.0, 6.0, 0.0),
            point(0.0, 10.0, 0.0),
        ];
        let front = fronts(&points).remove(0);
        assert_eq!(front, [0, 1, 2, 3]);
        let distance = crowding(&points, &front);
        assert!(distance[0].is_infinite() && distance[3].is_infinite());
        assert!((distance[1] - (0.5 + 0.6)).abs() < 1e-12);
        assert!((distance[2] - (0.6 + 0.5)).abs() < 1e-12);
    }

    #[test]
    fn thinning_looks_again_after_each_point() {
        // A close pair (3.0, 3.1): distances computed once would take both; one of them has to
        // stay.
        let line: Vec<Point> = [10.0, 6.0, 3.1, 3.0, 0.0]
            .iter()
            .map(|&x| point(x, 10.0 - x, 0.0))
            .collect();
        let kept = thin(&line, &[0, 1, 2, 3, 4], 4);
        assert_eq!(kept.len(), 4);
        assert_eq!(kept.iter().filter(|&&i| i == 2 || i == 3).count(), 1);
    }
}
