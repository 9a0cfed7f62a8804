//! Finds the region's entities and their classes in one pass over a dump.
//!
//! The pass keeps in memory only what closures need (subclass edges, links to places, countries by
//! direct statement: eight bytes each) and writes what is kept of each entity with a Spanish or
//! Portuguese name to a compressed spool. Closures then decide which entities of the spool are the
//! region's and what they are; the spool is read again for these and for the answers they name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use milpa_base::{Digest, lines};

use crate::{
    choclo::{
        BuildWatch,
        dump::{self, Block, Blocks},
        entity::{self, Entity, Id, Oddities, Value, Wanted},
        grammar::Language,
        knowledge::{COUNTRY_PROPERTIES, INSTANCE_OF, Knowledge, PLACE_PROPERTIES, SUBCLASS_OF},
        phrase,
    },
    error::EvalError,
    items::Skips,
};

/// Longest chain of places followed; real ones have fewer than ten links.
const MAX_ROUNDS: usize = 32;
/// Homonyms of one name that are looked at.
const MAX_HOMONYMS: usize = 32;

/// An entity with what the closures say of it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) entity: Entity,
    /// Bits of the region's countries it belongs to.
    pub(crate) countries: u32,
    pub(crate) class: Option<usize>,
}

/// What the pass over the dump counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DumpCounts {
    /// Decoded bytes.
    pub bytes: u64,
    /// Lines with an entity.
    pub lines: u64,
    /// Items among them.
    pub items: u64,
    /// Items with a Spanish or Portuguese name.
    pub named: u64,
    /// Subclass statements.
    pub subclass_edges: u64,
    /// Statements that lead to a place.
    pub place_links: u64,
    /// Lines that could not be used, by reason.
    pub skipped: Skips,
    /// Statements that could not be used, by reason.
    pub oddities: BTreeMap<String, u64>,
}

/// The result of the pass over the dump.
pub(crate) struct Survey {
    pub(crate) counts: DumpCounts,
    /// (class, superclass)
    subclasses: Vec<(Id, Id)>,
    /// (entity, place)
    links: Vec<(Id, Id)>,
    /// (entity, bits of countries)
    direct: Vec<(Id, u32)>,
    spool: Spool,
}

/// The kept entities on disk; removed with the value.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        // Best effort: the next build writes over it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a block adds to a survey.
#[derive(Default)]
struct Part {
    counts: DumpCounts,
    subclasses: Vec<(Id, Id)>,
    links: Vec<(Id, Id)>,
    direct: Vec<(Id, u32)>,
    spool: Vec<u8>,
}

/// Reads the dump once.
pub(crate) fn survey(
    dump_path: &Path,
    spool_path: &Path,
    knowledge: &Knowledge,
    threads: usize,
    keep_titles: bool,
    max_line_bytes: usize,
    watch: BuildWatch<'_>,
) -> Result<Survey, EvalError> {
    let mut wanted = knowledge.wanted();
    wanted.titles = keep_titles;
    let reader = dump::open(dump_path)
        .map_err(|source| EvalError::Read { path: dump_path.to_owned(), source })?;
    let write_error =
        |source| EvalError::Write { path: spool_path.to_owned(), what: "the spool", source };
    let file = File::create(spool_path).map_err(write_error)?;
    let spool = Spool(spool_path.to_owned());
    let mut encoder =
        zstd::stream::write::Encoder::new(BufWriter::new(file), 1).map_err(write_error)?;
    let mut all = Survey {
        counts: DumpCounts::default(),
        subclasses: Vec::new(),
        links: Vec::new(),
        direct: Vec::new(),
        spool,
    };
    watch.progress.begin("reading the dump", None, "bytes");
    let read = dump::process(
        Blocks::new(reader, max_line_bytes),
        threads,
        |block| survey_block(&block, knowledge, &wanted),
        |part, bytes| {
            watch.progress.advance(bytes);
            if watch.stop.is_set() {
                return Err(Stopped::Interrupted);
            }
            encoder.write_all(&part.spool).map_err(Stopped::Spool)?;
            all.add(part);
            Ok(())
        },
    );
    watch.progress.end();
    all.counts.bytes = read.map_err(|stopped| match stopped {
        Stopped::Dump(source) => {
            EvalError::Dump { path: dump_path.to_owned(), lines: all.counts.lines, source }
        }
        Stopped::Spool(source) => write_error(source),
        Stopped::Interrupted => EvalError::Interrupted,
    })?;
    encoder.finish().and_then(|mut file| file.flush()).map_err(write_error)?;
    Ok(all)
}

enum Stopped {
    Dump(io::Error),
    Spool(io::Error),
    Interrupted,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Dump(error)
    }
}

fn survey_block(block: &Block, knowledge: &Knowledge, wanted: &Wanted) -> Part {
    let mut part = Part::default();
    for (line, _) in &block.too_long {
        part.counts.skipped.add("longer than the bound", *line);
    }
    for (index, line) in block.bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        let line = line.strip_suffix(b",").unwrap_or(line);
        if matches!(line, b"" | b"[" | b"]") {
            continue;
        }
        part.counts.lines += 1;
        match entity::read(line, wanted, &mut part.counts.oddities) {
            Ok(Some(entity)) => part.add_entity(&entity, knowledge),
            Ok(None) => {}
            Err(error) => {
                let reason =
                    if error.is_data() { "not the data model of a dump" } else { "broken JSON" };
                part.counts.skipped.add(reason, block.first_line + index as u64);
            }
        }
    }
    part
}

impl Part {
    fn add_entity(&mut self, entity: &Entity, knowledge: &Knowledge) {
        self.counts.items += 1;
        for class in entity.items(SUBCLASS_OF) {
            self.subclasses.push((entity.id, class));
        }
        let own = knowledge.country_of.get(&entity.id).map_or(0, |&index| 1u32 << index);
        let countries = COUNTRY_PROPERTIES
            .iter()
            .flat_map(|&property| entity.items(property))
            .filter_map(|id| knowledge.country_of.get(&id))
            .fold(own, |bits, &index| bits | 1 << index);
        if countries != 0 {
            self.direct.push((entity.id, countries));
        }
        for place in PLACE_PROPERTIES.iter().flat_map(|&property| entity.items(property)) {
            if place != entity.id {
                self.links.push((entity.id, place));
            }
        }
        let excluded = entity.items(INSTANCE_OF).any(|class| knowledge.excluded.contains(&class));
        if !excluded && (entity.es.label.is_some() || entity.pt.label.is_some()) {
            self.counts.named += 1;
            serde_json::to_writer(&mut self.spool, entity).expect("a record is plain data");
            self.spool.push(b'\n');
        }
    }
}

impl Survey {
    fn add(&mut self, part: Part) {
        let counts = &mut self.counts;
        counts.lines += part.counts.lines;
        counts.items += part.counts.items;
        counts.named += part.counts.named;
        counts.subclass_edges += part.subclasses.len() as u64;
        counts.place_links += part.links.len() as u64;
        counts.skipped.merge(&part.counts.skipped);
        add_oddities(&mut counts.oddities, part.counts.oddities);
        self.subclasses.extend(part.subclasses);
        self.links.extend(part.links);
        self.direct.extend(part.direct);
    }

    /// Decides which entities are the region's and reads them and their answers from the spool.
    pub(crate) fn into_graph(
        mut self,
        knowledge: &Knowledge,
        watch: BuildWatch<'_>,
    ) -> Result<Graph, EvalError> {
        let countries =
            countries(std::mem::take(&mut self.direct), std::mem::take(&mut self.links));
        let classes = class_masks(std::mem::take(&mut self.subclasses), knowledge);
        let class_of = |entity: &Entity| {
            let mut mask = entity
                .items(INSTANCE_OF)
                .filter_map(|class| classes.get(&class))
                .fold(0u64, |mask, bits| mask | bits);
            for (index, class) in knowledge.classes.iter().enumerate() {
                if let Some(property) = class.or_property {
                    let has =
                        entity.claims.iter().any(|claim| claim.property == property && claim.best);
                    mask |= u64::from(has) << index;
                }
            }
            (mask != 0).then(|| mask.trailing_zeros() as usize)
        };
        let mut graph = Graph { counts: self.counts, ..Graph::default() };
        let mut wanted: HashSet<Id> = HashSet::new();
        read_spool(&self.spool.0, watch, |entity| {
            let Some(&bits) = countries.get(&entity.id) else { return };
            let Some(class) = class_of(&entity) else { return };
            if graph.by_id.contains_key(&entity.id) {
                graph.duplicates += 1;
                return;
            }
            for claim in &entity.claims {
                if let Value::Item(id) = claim.value {
                    wanted.insert(id);
                }
            }
            graph.by_id.insert(entity.id, graph.nodes.len());
            graph.nodes.push(Node { entity, countries: bits, class: Some(class) });
        })?;
        graph.nodes.sort_by_key(|node| node.entity.id);
        graph.subjects = graph.nodes.len();
        graph.by_id =
            graph.nodes.iter().enumerate().map(|(at, node)| (node.entity.id, at)).collect();
        graph.note_names(knowledge);
        let mut answers: BTreeMap<Id, Node> = BTreeMap::new();
        read_spool(&self.spool.0, watch, |mut entity| {
            let class = class_of(&entity);
            graph.note_homonym(&entity, class);
            if wanted.contains(&entity.id) && !graph.by_id.contains_key(&entity.id) {
                let bits = countries.get(&entity.id).copied().unwrap_or(0);
                entity.claims = Vec::new();
                answers.insert(entity.id, Node { entity, countries: bits, class });
            }
        })?;
        for (id, node) in answers {
            graph.by_id.insert(id, graph.nodes.len());
            graph.nodes.push(node);
        }
        Ok(graph)
    }
}

pub(crate) fn add_oddities(all: &mut Oddities, part: Oddities) {
    for (what, count) in part {
        // Unknown names come from the dump: their number is bounded.
        let what =
            if all.len() >= 64 && !all.contains_key(&what) { "other".to_owned() } else { what };
        *all.entry(what).or_default() += count;
    }
}

fn read_spool(
    path: &Path,
    watch: BuildWatch<'_>,
    mut each: impl FnMut(Entity),
) -> Result<(), EvalError> {
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(lines::open_decoded(path).map_err(read_error)?);
    let (mut line, mut count) = (Vec::new(), 0u64);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(read_error)? == 0 {
            return Ok(());
        }
        count += 1;
        if count % 4096 == 0 && watch.stop.is_set() {
            return Err(EvalError::Interrupted);
        }
        each(serde_json::from_slice(&line).map_err(|error| read_error(error.into()))?);
    }
}

/// Countries of each entity: its own statements and those of the places it leads to.
fn countries(direct: Vec<(Id, u32)>, mut links: Vec<(Id, Id)>) -> HashMap<Id, u32> {
    let mut countries: HashMap<Id, u32> = HashMap::with_capacity(direct.len());
    for (id, bits) in direct {
        *countries.entry(id).or_default() |= bits;
    }
    links.sort_unstable();
    links.dedup();
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for &(from, to) in &links {
            let Some(&bits) = countries.get(&to) else { continue };
            let own = countries.entry(from).or_default();
            changed |= *own | bits != *own;
            *own |= bits;
        }
        if !changed {
            break;
        }
    }
    countries
}

/// For each class below a root, the bits of these roots' classes.
fn class_masks(subclasses: Vec<(Id, Id)>, knowledge: &Knowledge) -> HashMap<Id, u64> {
    let mut below: Vec<(Id, Id)> =
        subclasses.into_iter().map(|(sub, class)| (class, sub)).collect();
    below.sort_unstable();
    below.dedup();
    let mut masks: HashMap<Id, u64> = HashMap::new();
    for (bit, class) in knowledge.classes.iter().enumerate() {
        let mut open = class.roots.clone();
        while let Some(id) = open.pop() {
            let mask = masks.entry(id).or_default();
            if *mask >> bit & 1 == 1 {
                continue;
            }
            *mask |= 1 << bit;
            let first = below.partition_point(|&(parent, _)| parent < id);
            open.extend(below[first..].iter().take_while(|edge| edge.0 == id).map(|edge| edge.1));
        }
    }
    masks
}

/// The region's entities and the answers they name.
#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) counts: DumpCounts,
    /// Subjects in order of their ids, then other answers.
    pub(crate) nodes: Vec<Node>,
    /// How many of the nodes are subjects.
    pub(crate) subjects: usize,
    pub(crate) by_id: HashMap<Id, usize>,
    pub(crate) duplicates: u64,
    /// Entities that share a subject's name and kind, by a hash of both.
    homonyms: HashMap<u64, Vec<Id>>,
    kinds: Vec<usize>,
}

impl Graph {
    pub(crate) fn get(&self, id: Id) -> Option<&Node> {
        self.by_id.get(&id).map(|&at| &self.nodes[at])
    }

    /// Other entities of the same kind that have the subject's name; `None` if they are too many.
    pub(crate) fn homonyms(&self, node: &Node, language: Language) -> Option<Vec<Id>> {
        let key = self.name_key(&node.entity, node.class?, language)?;
        let all = self.homonyms.get(&key)?;
        (all.len() < MAX_HOMONYMS)
            .then(|| all.iter().copied().filter(|&id| id != node.entity.id).collect())
    }

    fn note_names(&mut self, knowledge: &Knowledge) {
        // City, municipality and settlement are one kind of thing to who reads a name.
        let same = ["city", "municipality", "settlement"].map(|name| knowledge.class_named(name));
        self.kinds = (0..knowledge.classes.len())
            .map(|class| if same.contains(&Some(class)) { same[0].unwrap_or(class) } else { class })
            .collect();
        for at in 0..self.subjects {
            let node = &self.nodes[at];
            let Some(class) = node.class else { continue };
            let keys = Language::ALL.map(|language| self.name_key(&node.entity, class, language));
            for key in keys.into_iter().flatten() {
                self.homonyms.entry(key).or_default();
            }
        }
    }

    fn note_homonym(&mut self, entity: &Entity, class: Option<usize>) {
        let Some(class) = class else { return };
        for language in Language::ALL {
            let Some(key) = self.name_key(entity, class, language) else { continue };
            if let Some(ids) = self.homonyms.get_mut(&key)
                && ids.len() < MAX_HOMONYMS
                && !ids.contains(&entity.id)
            {
                ids.push(entity.id);
            }
        }
    }

    fn name_key(&self, entity: &Entity, class: usize, language: Language) -> Option<u64> {
        let names = match language {
            Language::Spanish => &entity.es,
            Language::Portuguese => &entity.pt,
        };
        let label = names.label.as_deref().filter(|label| phrase::is_showable(label))?;
        let text = format!(
            "{}\0{}\0{}",
            language.code(),
            self.kinds[class],
            crate::choclo::score::fold_accents(&crate::choclo::score::normalise(label, language))
        );
        let Digest(bytes) = milpa_base::hash_bytes(text.as_bytes());
        Some(u64::from_le_bytes(bytes[..8].try_into().expect("a digest has 32 bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_follow_places_and_survive_cycles() {
        let direct = vec![(10, 1), (20, 2)];
        // A person (1) born in a town (2) of a state (3) of 10; two places within each other.
        let links = vec![(1, 2), (2, 3), (3, 10), (1, 20), (5, 6), (6, 5), (7, 99)];
        let found = countries(direct, links);
        assert_eq!(found.get(&1), Some(&3));
        assert_eq!(found.get(&3), Some(&1));
        assert!(!found.contains_key(&5) && !found.contains_key(&7));
    }

    #[test]
    fn subclasses_of_any_depth_belong_to_their_root() {
        let knowledge = Knowledge::load(None).unwrap();
        let river = knowledge.class_named("river").unwrap();
        // 900 and 901 are subclasses of each other and of "river".
        let masks =
            class_masks(vec![(900, 4022), (901, 900), (900, 901), (5000, 9999)], &knowledge);
        assert_eq!(masks[&901] >> river & 1, 1);
        assert!(!masks.contains_key(&5000));
    }
}
