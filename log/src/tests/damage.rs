//! Damage, told apart from a torn tail.
