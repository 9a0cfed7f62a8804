//! What a text is: Unicode normalisation, language identification, shingles, MinHash
