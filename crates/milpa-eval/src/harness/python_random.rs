//! Python's `random.Random(seed).sample`: the harness picks few-shot examples with it.
//!
//! The generator is MT19937 (Matsumoto and Nishimura 1998), seeded by an array of 32-bit words as
//! CPython seeds it from an integer; `sample` draws as CPython 3.11 and later do. It knows no task.

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// The generator behind Python's `random`.
#[derive(Debug, Clone)]
pub struct PythonRandom {
    state: Box<[u32; N]>,
    at: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        let mut state = Box::new([0u32; N]);
        state[0] = 19_650_218;
        for i in 1..N {
            let before = state[i - 1];
            state[i] =
                1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let before = state[i - 1];
            state[i] = (state[i] ^ (before ^ (before >> 30)).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i += 1;
            j = (j + 1) % key.len();
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 0..N - 1 {
            let before = state[i - 1];
            state[i] = (state[i] ^ (before ^ (before >> 30)).wrapping_mul(1_566_083_941))
                .wrapping_sub(i as u32);
            i += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, at: N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let next = self.state[(i + 1) % N];
                let mixed = (self.state[i] & 0x8000_0000) | (next & 0x7fff_ffff);
                let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (mixed >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number below `n`, which is above 0 and at most 2³².
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.next_u32() >> (32 - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `sample(range(population), count)`: `None` if there are not so many.
    pub fn sample(&mut self, population: usize, count: usize) -> Option<Vec<usize>> {
        if count > population {
            return None;
        }
        // CPython keeps a set of what was drawn where that is smaller than a copy of all.
        let mut set_size = 21usize;
        if count > 5 {
            let power = ((count * 3) as f64).ln() / 4f64.ln();
            set_size = set_size.saturating_add(4usize.saturating_pow(power.ceil() as u32));
        }
        let mut picked = Vec::with_capacity(count);
        if population <= set_size {
            let mut pool: Vec<usize> = (0..population).collect();
            for drawn in 0..count {
                let at = self.below(population - drawn);
                picked.push(pool[at]);
                pool[at] = pool[population - drawn - 1];
            }
        } else {
            let mut seen = HashSet::with_capacity(count);
            while picked.len() < count {
                let at = self.below(population);
                if seen.insert(at) {
                    picked.push(at);
                }
            }
        }
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_cpython() {
        // random.seed(1234); [random.getrandbits(32) for _ in range(3)] of CPython 3.11.
        let mut random = PythonRandom::new(1234);
        let drawn: Vec<u32> = (0..3).map(|_| random.next_u32()).collect();
        assert_eq!(drawn, [4_150_886_329, 3_342_196_574, 1_892_932_127]);
        let mut random = PythonRandom::new(1234);
        assert_eq!(random.sample(10, 4).unwrap(), [7, 1, 0, 9]);
        assert_eq!(random.sample(1000, 6).unwrap(), [932, 965, 961, 826, 596, 35]);
        assert_eq!(
            random.sample(90, 25).unwrap(),
            [
                85, 88, 10, 12, 45, 30, 2, 3, 83, 44, 79, 61, 59, 19, 11, 23, 14, 1, 64, 62, 31, 8,
                77, 68, 75
            ]
        );
        assert_eq!(PythonRandom::new(1 << 40).sample(5, 5).unwrap(), [0, 2, 3, 4, 1]);
        assert_eq!(random.sample(3, 4), None);
    }
}
