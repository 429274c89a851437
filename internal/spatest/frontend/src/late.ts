import './late.css';

export const late = (): string => 'late';
