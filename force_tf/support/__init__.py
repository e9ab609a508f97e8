"""What any package needs: checks of arguments, files that appear whole, tables."""
