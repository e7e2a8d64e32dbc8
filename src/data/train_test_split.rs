//! Splitting a data set into a training and a test part, with the sizes and checks of Hugging Face's `datasets`.
//!
//! Sizes are scikit-learn's: the test part is rounded up. A stratified split gives each class its share by the
//! method of largest remainders (`sklearn.utils.extmath._approximate_mode`); ties go to the class seen first.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::data::{Dataset, Value};
use crate::error::{Error, Result, What};
use crate::tensor::rng::Rng;

/// The size of a part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// A share of all rows, above 0 and below 1.
    Fraction(f64),
    /// A number of rows.
    Count(usize),
}

/// Whether rows are drawn or cut off the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The test part is the end of the data set.
    InOrder,
    /// Both parts are drawn at random.
    Shuffled {
        /// The seed of the draw.
        seed: u64,
    },
    /// Both parts are drawn at random, and each class of a column has the same share in both.
    Stratified {
        /// The seed of the draw.
        seed: u64,
        /// The column whose values are the classes.
        column: String,
    },
}

/// How to split.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitOptions {
    /// The size of the test part; a quarter where neither size is given.
    pub test_size: Option<Size>,
    /// The size of the training part; what the test part leaves where it is not given.
    pub train_size: Option<Size>,
    /// How rows are drawn.
    pub draw: Draw,
}

/// Hugging Face's default share of the test part.
const DEFAULT_TEST_SIZE: Size = Size::Fraction(0.25);

impl Dataset {
    /// Splits into a training and a test part, in this order.
    ///
    /// # Errors
    /// Sizes that do not fit the number of rows, an unknown column, or classes too small to be in both parts.
    pub fn train_test_split(&self, options: &SplitOptions) -> Result<(Dataset, Dataset)> {
        let (n_train, n_test) = sizes(self.len(), options)?;
        let (train, test) = match &options.draw {
            Draw::InOrder => ((0..n_train).collect(), (n_train..n_train + n_test).collect()),
            Draw::Shuffled { seed } => {
                let mut order = Rng::new(*seed, "train_test_split", 0).permutation(self.len());
                let mut train = order.split_off(n_test);
                train.truncate(n_train);
                (train, order)
            }
            Draw::Stratified { seed, column } => self.stratified(column, *seed, n_train, n_test)?,
        };
        Ok((self.pick(train.into_iter()), self.pick(test.into_iter())))
    }

    fn stratified(&self, column: &str, seed: u64, n_train: usize, n_test: usize) -> Result<(Vec<usize>, Vec<usize>)> {
        let classes = self.unique(column)?;
        let number: HashMap<String, usize> =
            classes.iter().enumerate().map(|(class, value)| (format!("{value:?}"), class)).collect();
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); classes.len()];
        for (index, cell) in self.cells(column)?.enumerate() {
            members[number[&format!("{cell:?}")]].push(index);
        }
        let refuse = |problem: String| Error::new(What::BadData(problem)).hint("split without `stratify_by`");
        if let Some(small) = members.iter().position(|rows| rows.len() < 2) {
            let class = shown(&classes[small]);
            return Err(refuse(format!(
                "class {class} of column `{column}` has one row, and a stratified split needs two"
            )));
        }
        for (part, rows) in [("training", n_train), ("test", n_test)] {
            if rows < classes.len() {
                let n_classes = classes.len();
                return Err(refuse(format!(
                    "the {part} part would have {rows} rows, fewer than the {n_classes} classes of column `{column}`"
                )));
            }
        }
        let counts: Vec<usize> = members.iter().map(Vec::len).collect();
        let in_train = proportional(&counts, n_train);
        let left: Vec<usize> = counts.iter().zip(&in_train).map(|(count, taken)| count - taken).collect();
        let in_test = proportional(&left, n_test);
        let (mut train, mut test) = (Vec::with_capacity(n_train), Vec::with_capacity(n_test));
        for (class, rows) in members.iter().enumerate() {
            let order = Rng::new(seed, "train_test_split/class", class as u64).permutation(rows.len());
            let mut drawn = order.into_iter().map(|place| rows[place]);
            train.extend(drawn.by_ref().take(in_train[class]));
            test.extend(drawn.take(in_test[class]));
        }
        let mixed = |rows: Vec<usize>, part: u64| -> Vec<usize> {
            let order = Rng::new(seed, "train_test_split/order", part).permutation(rows.len());
            order.into_iter().map(|place| rows[place]).collect()
        };
        Ok((mixed(train, 0), mixed(test, 1)))
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_json().to_string(), |text| format!("`{text}`"))
}

/// The number of rows in the training and the test part.
fn sizes(rows: usize, options: &SplitOptions) -> Result<(usize, usize)> {
    let count = |name: &str, size: Option<Size>, round: fn(f64) -> f64| -> Result<Option<usize>> {
        let refuse = |value: String, allowed: String| {
            Error::new(What::OutOfRange { name: format!("`{name}` of `train_test_split`"), value, allowed })
        };
        match size {
            None => Ok(None),
            Some(Size::Fraction(share)) if share > 0.0 && share < 1.0 => Ok(Some(round(share * rows as f64) as usize)),
            Some(Size::Fraction(share)) => {
                Err(refuse(format!("{share:?}"), "above 0.0 and below 1.0, or a whole number of rows".into()))
            }
            Some(Size::Count(count)) if count > 0 && count < rows => Ok(Some(count)),
            Some(Size::Count(count)) => {
                Err(refuse(count.to_string(), format!("above 0 and below the number of rows, {rows}")))
            }
        }
    };
    let default = options.train_size.is_none().then_some(DEFAULT_TEST_SIZE);
    let test = count("test_size", options.test_size.or(default), f64::ceil)?;
    let train = count("train_size", options.train_size, f64::floor)?;
    let (train, test) = match (train, test) {
        (Some(train), Some(test)) => (train, test),
        (Some(train), None) => (train, rows.saturating_sub(train)),
        (None, test) => (rows.saturating_sub(test.unwrap_or(0)), test.unwrap_or(0)),
    };
    if train + test > rows {
        let problem = format!("`train_size` and `test_size` ask for {train} + {test} rows where there are {rows}");
        return Err(What::Conflict(problem).into());
    }
    if train == 0 || test == 0 {
        let part = if train == 0 { "training" } else { "test" };
        let problem = format!("the {part} part would have no rows: there are {rows} in all");
        return Err(Error::new(What::BadData(problem)).hint("give another `test_size`, or more rows"));
    }
    Ok((train, test))
}

/// `draws` shared out in proportion to `counts`, by largest remainders.
fn proportional(counts: &[usize], draws: usize) -> Vec<usize> {
    let total = counts.iter().sum::<usize>().max(1);
    let mut shares: Vec<usize> = counts.iter().map(|count| count * draws / total).collect();
    let missing = draws - shares.iter().sum::<usize>();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    // The sort is stable, so that ties go to the class seen first.
    order.sort_by_key(|&class| Reverse(counts[class] * draws % total));
    for &class in order.iter().take(missing) {
        shares[class] += 1;
    }
    shares
}
