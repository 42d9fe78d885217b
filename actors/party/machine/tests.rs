mod basics;
mod farewell;
mod hostile;
mod net;
mod roll;
