"""The variational autoencoder of a table: likelihoods, networks, prior, objective and score. Pure torch."""
