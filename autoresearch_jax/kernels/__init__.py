"""Operations with a faster form on some platforms, behind one function each."""
