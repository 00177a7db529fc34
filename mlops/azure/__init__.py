"""The only package that speaks to Azure; everything above it says what it wants in the domain's words."""
