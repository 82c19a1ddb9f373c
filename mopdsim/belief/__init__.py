"""What is believed of domains and parameters: estimates with grade and source, their draws, the error of the model
form."""
