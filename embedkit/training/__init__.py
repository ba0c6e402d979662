"""Everything that moves an encoder's weights: sequences, pairs, masked words; all of it or the upper blocks."""
