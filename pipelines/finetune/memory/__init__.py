"""What a rank of a training needs of memory, found before it starts."""
