//! The terminal while the console has it: raw mode, drawing, and giving it back.

use super::look::Look;
use super::model::Model;
use super::view;
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::terminal::{
    self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{cursor, execute, style};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use std::io::{self, Stdout, stdout};

/// Size of a terminal that does not know its size, as one behind a serial line.
const SERIAL: (u16, u16) = (80, 24);

/// The terminal in our hands. Given back by [`Screen::close`], on drop and on panic.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    area: Rect,
    look: Look,
    open: bool,
}

impl Screen {
    pub(crate) fn open(look: Look) -> io::Result<Self> {
        enable_raw_mode()?;
        let area = size();
        let options = TerminalOptions { viewport: Viewport::Fixed(area) };
        let terminal = Terminal::with_options(CrosstermBackend::new(stdout()), options)?;
        let screen = Screen { terminal, area, look, open: true };
        // The release build aborts on panic, so Drop alone would leave the terminal raw.
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = give_back(look);
            next(panic);
        }));
        // Old terminals take the digits of unknown colour sequences for other orders.
        style::force_color_output(look.colour);
        if look.modern {
            execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        }
        execute!(stdout(), Clear(ClearType::All), cursor::MoveTo(0, 0))?;
        Ok(screen)
    }

    pub(crate) fn draw(&mut self, model: &Model) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(model, frame)).map(|_| ())
    }

    /// Draws everything anew at the next draw: after a change of size, or when somebody else (the
    /// kernel, on a console) wrote over the screen.
    pub(crate) fn repaint(&mut self) -> io::Result<()> {
        self.area = size();
        execute!(stdout(), Clear(ClearType::All))?;
        self.terminal.resize(self.area)
    }

    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.open = false;
        let _ = execute!(stdout(), cursor::MoveTo(0, self.area.height.saturating_sub(1)));
        give_back(self.look)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.open {
            let _ = self.close();
        }
    }
}

fn give_back(look: Look) -> io::Result<()> {
    let shown = match look.modern {
        true => execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, cursor::Show),
        false => execute!(stdout(), Clear(ClearType::All), cursor::MoveTo(0, 0), cursor::Show),
    };
    disable_raw_mode().and(shown)
}

fn size() -> Rect {
    let (width, height) = match terminal::size() {
        Ok((width, height)) if width > 0 && height > 0 => (width, height),
        Ok(_) | Err(_) => SERIAL,
    };
    Rect::new(0, 0, width, height)
}
