//! Words that the rules for marks would cut wrongly, and contractions that are two words.
//!
//! Abbreviations keep their full stop; English contractions are made of their parts (`do` + `n't`),
//! with and without the apostrophe.
//!
//! Which words these are is a fact about the peer and not a choice: they are those for which the blank
//! pipelines of spaCy 3.8 (MIT licence) for English, Spanish, Portuguese and `xx` have a rule, since
//! published thresholds count words so. No other word is here, and none of those without a space inside is
//! left out: `golden/filters.json` of milpa-corpus has them all, as spaCy cuts them. Text and code are
//! our own. To follow another version of spaCy, make that file again and mend what its test names.

use super::Dialect;

/// Kept whole in all languages, besides a letter with a full stop (`a.`).
const BASE: &str = r#"' \") <space> '' C++ :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =]
    :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-(
    :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X
    :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v
    V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-)
    (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*> \t \n —"#;

const SPANISH: &str = "n° °C aprox. dna. dpto. ej. esq. pág. p.ej. Ud. Vd. Uds. Vds. vol. a.C. a.J.C. \
    d.C. d.J.C. apdo. Av. Avda. Cía. Dr. Dra. EE.UU. Ee.Uu. etc. fig. Gob. Gral. Ing. J.C. km/h Lic. \
    m.n. núm. P.D. Prof. Profa. q.e.p.d. Q.E.P.D. S.A. S.L. S.R.L. s.s.s. Sr. Sra. Srta.";

const PORTUGUESE: &str = "Adm. Art. art. Av. av. Cia. dom. Dr. dr. e.g. E.g. E.G. e/ou ed. eng. etc. \
    Fund. Gen. Gov. i.e. I.e. I.E. Inc. Jr. km/h Ltd. Mr. p.m. Ph.D. Rep. Rev. S/A Sen. Sr. sr. Sra. \
    sra. vs. tel. pág. pag.";

const ENGLISH: &str = "'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout \
    ma'am Ma'am o'clock O'clock lovin' Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' \
    nuthin' Nuthin' ol' Ol' somethin' Somethin' 'em 'll 'nuff Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. \
    Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. \
    Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. \
    Sept. Tenn. Va. Wash. Wis. 'd a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. \
    I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. \
    v.s.";

/// Words with the endings that they take, each a list of pieces joined by `+`. An apostrophe can
/// be left out.
const CONTRACTIONS: &[(&str, &str)] = &[
    ("i", "'m 'm+a"),
    ("i you he she it we they", "'ll 'll+'ve 'd 'd+'ve"),
    ("i you we they", "'ve"),
    ("you we they", "'re"),
    ("he she it", "'s"),
    ("who what when where why how there that this", "'s"),
    ("who what when where why how there that this these those", "'ll 'll+'ve 'd 'd+'ve"),
    ("who what when where why how there these those", "'re 've"),
    ("ca could do does did had may might must need ought sha should wo would", "n't n't+'ve"),
    ("could might must should would", "'ve"),
    ("ai are is was were have has dare", "n't"),
];
/// Words that only look like a contraction without its apostrophe.
const NO_CONTRACTIONS: &[&str] = &[
    "Ill", "ill", "Its", "its", "Hell", "hell", "Shell", "shell", "Shed", "shed", "were", "Were",
    "Well", "well", "Whore", "whore",
];
const OTHER_ENGLISH: &str = "y'+all y+all how+'d+'y How+'d+'y not+'ve not+ve Not+'ve Not+ve can+not \
    Can+not gon+na Gon+na got+ta Got+ta let+'s Let+'s c'm+on C'm+on";

/// The exceptions of a language: text and the byte lengths of its pieces.
pub(super) fn of(dialect: Dialect) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut whole = |words: &str| all.extend(words.split_whitespace().map(|w| vec![w.to_owned()]));
    whole(BASE);
    for letter in ('a'..='z').chain(['ä', 'ö', 'ü']) {
        whole(&format!("{letter}."));
    }
    match dialect {
        Dialect::Base => {}
        Dialect::English => whole(ENGLISH),
        Dialect::Spanish => whole(SPANISH),
        Dialect::Portuguese => whole(PORTUGUESE),
    }
    for unit in "cfkCFK".chars() {
        all.push(["°", &unit.to_string(), "."].map(str::to_owned).to_vec());
    }
    if dialect == Dialect::English {
        contractions(&mut all);
        all.extend(
            OTHER_ENGLISH.split_whitespace().map(|w| w.split('+').map(str::to_owned).collect()),
        );
    }
    if dialect == Dialect::Spanish {
        all.push(["pa", "l"].map(str::to_owned).to_vec());
        all.push(["12", "m."].map(str::to_owned).to_vec());
    }
    if matches!(dialect, Dialect::English | Dialect::Spanish) {
        for hour in 1..=12 {
            for period in ["a.m.", "am", "p.m.", "pm"] {
                all.push(vec![hour.to_string(), period.to_owned()]);
            }
        }
    }
    // Each apostrophe can be the typographic one.
    let curly: Vec<Vec<String>> = all
        .iter()
        .filter(|pieces| pieces.iter().any(|piece| piece.contains('\'')))
        .map(|pieces| pieces.iter().map(|piece| piece.replace('\'', "’")).collect())
        .collect();
    all.extend(curly);
    all.into_iter()
        .map(|pieces| (pieces.concat(), pieces.iter().map(|piece| piece.len() as u8).collect()))
        .collect()
}

fn contractions(all: &mut Vec<Vec<String>>) {
    for (words, endings) in CONTRACTIONS {
        for word in words.split(' ') {
            let capital = word[..1].to_uppercase() + &word[1..];
            for (word, ending) in [word.to_owned(), capital]
                .iter()
                .flat_map(|w| endings.split(' ').map(move |e| (w, e)))
            {
                let mut pieces = vec![word.clone()];
                pieces.extend(ending.split('+').map(str::to_owned));
                let plain: Vec<String> =
                    pieces.iter().map(|piece| piece.replace('\'', "")).collect();
                if !NO_CONTRACTIONS.contains(&plain.concat().as_str()) {
                    all.push(plain);
                }
                all.push(pieces);
            }
        }
    }
}
